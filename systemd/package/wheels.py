"""Wheels, from PyPI and edged's own: pinned, unpacked, and without the files that never serve.

`wheels/<suite>.txt` pins versions with their wheels' digests; those of `edged-archive` below a line that names it.
`lock` makes it. `wheels/left-out.txt` lists the files.
"""

import fnmatch
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from systemd.package.suites import MACHINES, Suite

ROOT = Path(__file__).parents[2]
PINS = Path(__file__).parent / "wheels"


def run(*command: str | Path, **variables: str) -> str:
    """What a command prints. Ends this program when that fails."""
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, env=os.environ | variables)
    if done.returncode:
        sys.exit(f"`{' '.join(map(str, command))}` failed with status {done.returncode}")
    return done.stdout


def uv(*arguments: str | Path, **variables: str) -> None:
    """Run uv, of this Python's packages."""
    run(sys.executable, "-P", "-m", "uv", *arguments, "--quiet", **variables)


def target(suite: Suite, machine: str) -> tuple[str, ...]:
    """Which wheels fit, as options of uv."""
    platform = f"{machine}-manylinux_{'_'.join(map(str, suite.glibc))}"
    return ("--only-binary=:all:", "--python-version", suite.python_version, "--python-platform", platform)


def own(arch: str, into: Path) -> Path:
    """The wheel of this checkout, with its kernels, made as `.ci/wheels` makes it."""
    pins = ("--build-constraints", PINS / "build.txt", "--require-hashes")
    uv("build", "--wheel", *pins, "--out-dir", into, ROOT, EDGED_PUBLISHED_WHEEL=MACHINES[arch])
    return find_own(arch, into)


def find_own(arch: str, folder: Path) -> Path:
    """It, in a folder. Ends the program unless there is just one."""
    match list(folder.glob(f"edged-*_{MACHINES[arch]}.whl")):
        case [wheel]:
            return wheel
        case several:
            sys.exit(f"{folder} has {len(several)} wheels of edged for {MACHINES[arch]}, not one")


def unpack(package: str, suite: Suite, arch: str, site: Path, *wheels: Path) -> None:
    """Put what is pinned for a package, and wheels, into a folder as site-packages; less what is left out."""
    of_edged, line, of_archive = (PINS / f"{suite.name}.txt").read_text().partition("# edged-archive\n")
    assert line
    pins = site / ".pins"
    pins.write_text(of_edged if package == "edged" else of_archive)
    install: tuple[str | Path, ...] = (
        "pip",
        "install",
        "--no-deps",
        "--link-mode=copy",
        *target(suite, MACHINES[arch]),
        "--target",
        site,
    )
    uv(*install, "--require-hashes", "-r", pins)
    if wheels:
        uv(*install, *wheels)
    for mine in (pins, site / ".lock"):  # both packages would bring it
        mine.unlink(missing_ok=True)
    shutil.rmtree(site / "bin", ignore_errors=True)
    leave_out(site)


def leave_out(site: Path) -> None:
    """Remove the files that never serve, none of them edged's own, and the folders that nothing is left in."""
    patterns = left_out()
    for path in files(site):
        name = str(path.relative_to(site))
        if not name.startswith("edged/") and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            path.unlink()
    for folder in sorted((path for path in site.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def left_out() -> list[str]:
    """The patterns of `left-out.txt`."""
    lines = (PINS / "left-out.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def files(folder: Path) -> Iterator[Path]:
    """Files and links, at any depth, in the order of their names."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
