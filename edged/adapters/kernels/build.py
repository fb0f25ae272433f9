"""Compiles kernels.c, when edged is installed; in a checkout also by `python edged/adapters/kernels/build.py`.

Hatchling loads this file by its path, where nothing of edged is installed: it imports the standard library alone. An
installation never fails for want of kernels: where nothing compiles, a line says why, and numpy computes alone.

See also: `library` (loads what this makes), .ci/wheels (the published wheels).
"""

import contextlib
import hashlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "kernels.c"
PUBLISHED = "EDGED_PUBLISHED_WHEEL"
"""The environment variable that names the machine (x86_64, aarch64) for which a wheel is to be published."""
ZIGLANG = "0.17.1"
"""The compiler of the published wheels, from PyPI: it compiles for each machine, against an old glibc."""
REMEDY = "`apt install gcc libc6-dev` and install edged again, or install its published wheel"
WHY_NOT = "not-compiled.txt"
"""The file beside the source that says why nothing was compiled: what pip says of it is seldom seen."""

_CHECKSUM_BYTES = 32
_GLIBC = "2.17"
_FLAGS = ("-O3", "-fPIC", "-shared", "-s", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-Wall")
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
_PROBE = "#include <stdint.h>\n#include <string.h>\nint64_t probe(void) { return (int64_t) strlen(__VERSION__); }\n"
_PROBE_S = 60.0
_COMPILE_S = 900.0  # 20 s of a fast core; minutes on a Pi, more if it swaps


class NotBuilt(Exception):  # noqa: N818
    """There are no kernels, and why."""


class Variant(NamedTuple):
    """One library: kernels.c compiled for the CPUs of one machine that have `features`, as /proc/cpuinfo names them."""

    file: str
    instructions: str
    cc: str
    zig: str
    features: frozenset[str]


_V3 = frozenset({"avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
VARIANTS = {
    "x86_64": (
        Variant("kernels-x86_64-v4.so", "AVX-512", "-march=x86-64-v4", "-mcpu=x86_64_v4", _V4),
        Variant("kernels-x86_64-v3.so", "AVX2", "-march=x86-64-v3", "-mcpu=x86_64_v3", _V3),
    ),
    "aarch64": (Variant("kernels-aarch64.so", "NEON", "-march=armv8-a", "-mcpu=generic", frozenset()),),
}
"""Of each machine, the best first."""


def machine() -> str:
    """Of `VARIANTS`, the machine that this is. Raises NotBuilt where it is none: another system, or 32 bits."""
    name = platform.machine()
    if sys.platform != "linux" or name not in VARIANTS or sys.maxsize < 2**32:
        bits = "" if sys.maxsize > 2**32 else ", 32-bit Python"
        raise NotBuilt(
            f"there are kernels for 64-bit Linux on {' and '.join(VARIANTS)}, not for {sys.platform}, {name}{bits}"
        )
    return name


def digest(source: bytes) -> str:
    """By which a library names the source that it was compiled from."""
    return hashlib.sha256(source).hexdigest()


def own_compiler(machine: str) -> list[str]:
    """The command of this system's compiler. Raises NotBuilt unless it makes a library for `machine`."""
    try:
        command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    except ValueError as error:
        raise NotBuilt(f"the variable CC is no command: {error}") from error
    with tempfile.TemporaryDirectory(prefix="edged-probe-") as name:
        probe = Path(name) / "probe.so"
        probe.with_suffix(".c").write_text(_PROBE)
        run([*command, *_FLAGS, "-o", str(probe), str(probe.with_suffix(".c"))], _PROBE_S)
        header = probe.read_bytes()[:20] if probe.exists() else b""
    if header[:5] != b"\x7fELF\x02" or int.from_bytes(header[18:20], "little") != _ELF_MACHINES[machine]:
        raise NotBuilt(f"`{shlex.join(command)}` makes no libraries for {machine}")
    return command


def zig(machine: str) -> list[str]:
    """The command of the pinned compiler. Raises NotBuilt when it is not the one that is installed."""
    from importlib import metadata  # noqa: PLC0415 - costs more than all others, and is only wanted here

    try:
        found = metadata.version("ziglang")
    except metadata.PackageNotFoundError:
        found = "none"
    if found != ZIGLANG:
        raise NotBuilt(f"published wheels are compiled by ziglang {ZIGLANG}; here is {found}")
    return [sys.executable, "-P", "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{_GLIBC}"]


def is_whole(library: bytes) -> bool:
    """Whether a library is what `compile_to` wrote: it ends in the SHA-256 of all before, which loaders do not read."""
    return library[-_CHECKSUM_BYTES:] == _checksum(library[:-_CHECKSUM_BYTES])


def compile_to(library: Path, command: Sequence[str], flags: Iterable[str], *, source: Path = SOURCE) -> None:
    """Compile by `command`, with `flags` after the usual ones: whole or not at all. Raises NotBuilt, OSError."""
    whole = library.with_name(f"{os.getpid()}-{library.name}")
    origin = f'-DEDGED_SOURCE="{digest(source.read_bytes())}"'
    try:
        whole.touch()  # or a folder that cannot be written is told after the minutes that a Pi compiles for
        whole.unlink()
        run([*command, *_FLAGS, *flags, origin, "-o", str(whole), str(source)], _COMPILE_S)
        content = whole.read_bytes()
        whole.write_bytes(content + _checksum(content))
        whole.replace(library)
    finally:
        whole.unlink(missing_ok=True)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def build(into: Path) -> tuple[list[Path], list[str]]:
    """Compile the kernels of this machine by its own compiler: the libraries, and what went wrong. Raises NotBuilt."""
    here = machine()
    command = own_compiler(here)

    def problem(variant: Variant) -> str:
        try:
            compile_to(into / variant.file, command, [variant.cc])
        except (NotBuilt, OSError) as error:
            return f"{variant.file}: {error}"
        return ""

    variants = VARIANTS[here]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # each waits for a compiler
        problems = list(threads.map(problem, variants))
    libraries = [into / variant.file for variant, said in zip(variants, problems, strict=True) if not said]
    if not libraries:
        raise NotBuilt("; ".join(problems))
    return libraries, [each for each in problems if each]


def publish(machine: str, into: Path) -> list[Path]:
    """Compile the kernels of `machine` by the pinned compiler. Raises NotBuilt, OSError."""
    if machine not in VARIANTS:
        raise NotBuilt(f"{PUBLISHED}={machine}: one of {', '.join(VARIANTS)}")
    command = zig(machine)
    for variant in VARIANTS[machine]:
        compile_to(into / variant.file, command, [variant.zig])
    return [into / variant.file for variant in VARIANTS[machine]]


def run(command: list[str], limit_s: float) -> None:
    """Run a compiler; after `limit_s` end it, with all that it started. Raises NotBuilt, with its words."""
    # Its words go to a file: a pipe would be waited for as long as anything that it started has it open.
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(  # noqa: S603 - the compiler of whoever installs
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
            )
        except OSError as error:
            raise NotBuilt(f"`{command[0]}` cannot be started: {error.strerror}") from error
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise NotBuilt(f"`{command[0]}` did not end in {limit_s:.0f} s") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            words.seek(0)
            said = words.read(65536).decode(errors="replace").split("\n")
            line = next((line for line in said if "error" in line), said[0]).strip()
            raise NotBuilt(f"`{command[0]}` failed with status {status}: {line or 'it said nothing'}")


def build_or_note(into: Path) -> tuple[list[Path], list[str]]:
    """As `build`, but that nothing compiles is no error: the libraries, and the lines for whoever installs.

    Then the file WHY_NOT says why, for whoever asks later.
    """
    try:
        libraries, problems = build(into)
    except (NotBuilt, OSError) as error:
        with contextlib.suppress(OSError):
            (into / WHY_NOT).write_text(" ".join(str(error).split()))
        return [], [f"no compiled kernels, so numpy computes alone, slower: {error}. To have them: {REMEDY}."]
    with contextlib.suppress(OSError):
        (into / WHY_NOT).unlink(missing_ok=True)
    return libraries, [f"not compiled: {problem}" for problem in problems]


def get_build_hook() -> type[Any]:
    """Called by hatchling, by this name. The class is made here, for elsewhere there is no hatchling."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # noqa: PLC0415

    class Kernels(BuildHookInterface):  # type: ignore[misc]
        """Puts the libraries into a wheel, with its true tag; of an editable installation, beside their source."""

        def dependencies(self) -> list[str]:
            return [f"ziglang=={ZIGLANG}"] if os.environ.get(PUBLISHED) else []

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if version == "editable":
                self._build(FOLDER)
                return
            target = os.environ.get(PUBLISHED)
            self._folder = tempfile.TemporaryDirectory(prefix="edged-kernels-")
            into = Path(self._folder.name)
            libraries = publish(target, into) if target else self._build(into)
            build_data["force_include"] |= {str(path): f"edged/adapters/kernels/{path.name}" for path in into.iterdir()}
            if libraries:
                system = f"manylinux_{_GLIBC.replace('.', '_')}" if target else "linux"
                build_data["tag"] = f"py3-none-{system}_{target or machine()}"
                build_data["pure_python"] = False

        def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
            if hasattr(self, "_folder"):
                self._folder.cleanup()

        def _build(self, into: Path) -> list[Path]:
            libraries, lines = build_or_note(into)
            for line in lines:
                self.app.display_warning(line)
            return libraries

    return Kernels


def main() -> int:
    """Compile beside the source, in a checkout."""
    libraries, lines = build_or_note(FOLDER)
    print(*lines, sep="\n", end="\n" * bool(lines), file=sys.stderr)
    for library in libraries:
        print(library)
    return 0 if libraries else 1


if __name__ == "__main__":
    sys.exit(main())
