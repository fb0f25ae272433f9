import _ctypes
import ctypes
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from edged.adapters.kernels import build, library
from edged.adapters.kernels.library import ABI
from edged.errors import KernelsUnavailable
from tests.support.kernel_builds import compiled as own_build
from tests.support.kernel_builds import flags_of_this_cpu, load_best, own_compiler
from tests.support.requirements import require

X86 = build.VARIANTS["x86_64"]
ZEN_2 = X86[1].features | {"sse4_2", "clzero"}
ZEN_4 = ZEN_2 | X86[0].features


class Pair(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int32), ("values", ctypes.c_void_p))


SMALL = f"""
#include <stdint.h>
#define EXPORT __attribute__((visibility("default")))
EXPORT int edged_kernels_abi(void) {{ return {ABI}; }}
EXPORT const char *edged_kernels_source(void) {{ return EDGED_SOURCE; }}
EXPORT int64_t edged_kernels_sizeof(int which) {{ return which == 0 ? 16 : -1; }}
#ifdef REFUSED
EXPORT int edged_kernels_run_here(void) {{ return 0; }}
#else
EXPORT int edged_kernels_run_here(void) {{ return 1; }}
#endif
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder with a small source and the library of it, under this CPU's name."""
    folder = tmp_path_factory.mktemp("kernels")
    command = own_compiler()
    source = folder / build.SOURCE.name
    source.write_text(SMALL)
    for variant in build.VARIANTS[build.machine()]:
        build.compile_to(folder / variant.file, command, [variant.cc], source=source)
    return folder


@pytest.fixture
def folder(compiled, tmp_path, monkeypatch):
    """A copy of `compiled` that a test may spoil."""
    monkeypatch.setattr(library, "STRUCTS", (Pair,))
    return shutil.copytree(compiled, tmp_path / "kernels")


def file_in(folder: Path) -> Path:
    return folder / library.fitting(folder)[0].file


def test_a_library_that_fits_is_loaded(folder):
    assert load_best(folder).edged_kernels_abi() == ABI


def test_all_threads_get_one_and_the_same(folder):
    loaded = []
    threads = [threading.Thread(target=lambda: loaded.append(load_best(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(loaded) == 4
    assert len({id(one) for one in loaded}) == 1


def test_a_library_of_another_source_is_refused(folder):
    with (folder / build.SOURCE.name).open("a") as source:
        source.write("/* changed */\n")

    with pytest.raises(KernelsUnavailable, match=r"another kernels\.c than the one beside it: `apt install"):
        load_best(folder)


def test_a_library_whose_source_is_gone_is_refused(folder):
    (folder / build.SOURCE.name).unlink()

    with pytest.raises(KernelsUnavailable, match=r"kernels\.c cannot be read"):
        load_best(folder)


def test_a_library_of_another_interface_is_refused(folder, monkeypatch):
    monkeypatch.setattr(library, "ABI", ABI + 1)

    with pytest.raises(KernelsUnavailable, match=f"interface {ABI}, and this edged knows {ABI + 1}"):
        load_best(folder)


def test_a_library_with_a_struct_of_another_size_is_refused(folder, monkeypatch):
    class Longer(ctypes.Structure):
        _fields_ = (*Pair._fields_, ("more", ctypes.c_int64))

    monkeypatch.setattr(library, "STRUCTS", (Longer,))

    with pytest.raises(KernelsUnavailable, match="16 bytes for Longer, and this edged 24"):
        load_best(folder)


def test_a_struct_that_the_library_does_not_know_is_refused(folder, monkeypatch):
    monkeypatch.setattr(library, "STRUCTS", (Pair, Pair))

    with pytest.raises(KernelsUnavailable, match="-1 bytes for Pair"):
        load_best(folder)


def torn(library: bytes) -> bytes:
    return library[: len(library) // 2]


def garbled(library: bytes) -> bytes:
    middle = len(library) // 2
    return library[:middle] + b"?" * 512 + library[middle + 512 :]


def longer(library: bytes) -> bytes:
    return library + bytes(512)


@pytest.mark.parametrize("damage", [torn, garbled, longer], ids=["torn", "a block garbled", "longer"])
def test_a_damaged_library_is_refused_before_it_ends_the_process(folder, damage):
    file_in(folder).write_bytes(damage(file_in(folder).read_bytes()))

    with pytest.raises(KernelsUnavailable, match=r"is damaged, for its checksum differs: `apt install"):
        load_best(folder)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no library " * 10], ids=["empty", "a few bytes", "text"])
def test_what_is_no_library_is_refused(folder, content):
    file_in(folder).write_bytes(content)

    with pytest.raises(KernelsUnavailable, match="is damaged"):
        load_best(folder)


@pytest.mark.parametrize("name", ["the library", "its source", "the note"])
def test_a_fifo_is_refused_and_not_waited_for(folder, name):
    file = {
        "the library": file_in(folder),
        "its source": folder / build.SOURCE.name,
        "the note": folder / build.WHY_NOT,
    }
    if name == "the note":
        for variant in build.VARIANTS[build.machine()]:
            (folder / variant.file).unlink()
    file[name].unlink(missing_ok=True)
    os.mkfifo(file[name])

    says = {"the library": "no regular file", "its source": "no regular file", "the note": "none was compiled"}
    with pytest.raises(KernelsUnavailable, match=says[name]):
        load_best(folder)


def test_what_cannot_be_loaded_is_refused(folder):
    text = b"whole, but no library"
    file_in(folder).write_bytes(text + hashlib.sha256(text).digest())

    with pytest.raises(KernelsUnavailable, match="cannot be loaded"):
        load_best(folder)


def test_a_file_system_that_is_mounted_noexec_is_the_reason(folder, monkeypatch):
    text = b"whole, but no library"
    file_in(folder).write_bytes(text + hashlib.sha256(text).digest())
    mounted = SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NOSUID)
    monkeypatch.setattr(os, "statvfs", lambda _: mounted)

    with pytest.raises(KernelsUnavailable, match=rf"^{folder} is on a file system that is mounted noexec.*: mount it"):
        load_best(folder)


def test_another_library_under_its_name_is_refused(folder):
    other = Path(_ctypes.__file__).read_bytes()
    file_in(folder).write_bytes(other + hashlib.sha256(other).digest())

    with pytest.raises(KernelsUnavailable, match=r"cannot be loaded .*edged_kernels_abi"):
        load_best(folder)


def test_a_folder_without_a_library_says_how_to_get_one(tmp_path):
    with pytest.raises(KernelsUnavailable, match=r"none was compiled \(.* is missing\): `apt install gcc libc6-dev"):
        load_best(tmp_path)


def test_a_folder_where_nothing_compiled_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    assert build.build_or_note(tmp_path)[0] == []

    says = "none was compiled when edged was installed, because `/nonexistent/cc` cannot be started: No such file"
    with pytest.raises(KernelsUnavailable, match=says):
        load_best(tmp_path)


def test_a_cpu_that_refuses_its_instructions_has_no_kernels(folder):
    path, flag = file_in(folder), library.fitting(folder)[0].cc
    build.compile_to(path, own_compiler(), [flag, "-DREFUSED"], source=folder / build.SOURCE.name)

    with pytest.raises(
        KernelsUnavailable, match=r"or what emulates it, refuses instructions of .*/proc/cpuinfo promises"
    ):
        load_best(folder)


def test_a_refused_instruction_is_told_and_does_not_end_the_process(tmp_path):
    """UD2 is one that each CPU of this kind refuses; what handled its signal before does so again."""
    if platform.machine() != "x86_64":
        pytest.skip("there is nothing to try on others")
    trial = own_build(tmp_path / "trial.so", own_compiler(), *flags_of_this_cpu(), "-O0", '-DTRIAL="ud2"')
    before = signal.getsignal(signal.SIGILL)

    assert not ctypes.CDLL(str(trial)).edged_kernels_run_here()

    assert signal.getsignal(signal.SIGILL) == before


@pytest.mark.parametrize(("cpu", "refused"), [("Haswell", {"AVX-512"}), ("Nehalem", {"AVX-512", "AVX2"})])
def test_an_emulated_cpu_refuses_what_the_machine_has(cpu, refused):
    if platform.machine() != "x86_64":
        pytest.skip("there is nothing to try on others")
    if (qemu := shutil.which("qemu-x86_64")) is None:
        require("qemu-x86_64, of qemu-user")
    tried = "import ctypes, sys; print(*(ctypes.CDLL(each).edged_kernels_run_here() for each in sys.argv[1:]))"
    variants = build.VARIANTS["x86_64"]
    paths = [str(build.FOLDER / variant.file) for variant in variants]

    said = subprocess.run(
        [qemu, "-cpu", cpu, sys.executable, "-I", "-S", "-c", tried, *paths], capture_output=True, text=True, check=True
    )

    assert said.stdout.split() == ["0" if variant.instructions in refused else "1" for variant in variants]


def test_a_refusal_is_not_remembered(folder):
    whole = file_in(folder).read_bytes()
    library_file = file_in(folder)
    library_file.unlink()
    for variant in build.VARIANTS[build.machine()]:
        (folder / variant.file).unlink(missing_ok=True)
    with pytest.raises(KernelsUnavailable):
        load_best(folder)

    library_file.write_bytes(whole)

    assert load_best(folder).edged_kernels_abi() == ABI


@pytest.mark.parametrize(
    ("cpu", "there", "expected"),
    [
        (ZEN_4, X86, [*X86]),
        (ZEN_2, X86, [X86[1]]),
        (ZEN_4, X86[1:], [*X86]),
        (X86[0].features - {"avx512vl"}, X86, [X86[1]]),
    ],
    ids=["AVX-512", "AVX2", "the better one is missing", "AVX-512 in part"],
)
def test_the_libraries_for_the_cpu_are_looked_at_the_best_first(tmp_path, cpu, there, expected):
    for variant in there:
        (tmp_path / variant.file).touch()

    assert library.fitting_of(X86, cpu, tmp_path) == expected


def test_a_cpu_without_multiply_add_has_no_library(tmp_path):
    for variant in X86:
        (tmp_path / variant.file).touch()

    with pytest.raises(KernelsUnavailable, match="this CPU lacks fma, without which numpy is faster"):
        library.fitting_of(X86, ZEN_2 - {"fma"}, tmp_path)


def test_every_cpu_of_64_bit_arm_has_one(tmp_path):
    (variant,) = build.VARIANTS["aarch64"]
    (tmp_path / variant.file).touch()

    assert library.fitting_of([variant], frozenset(), tmp_path) == [variant]


@pytest.mark.parametrize(
    ("system", "machine", "maxsize"),
    [("linux", "armv7l", 2**31 - 1), ("linux", "aarch64", 2**31 - 1), ("darwin", "arm64", 2**63 - 1)],
    ids=["32-bit ARM", "32-bit Python on a 64-bit kernel", "macOS"],
)
def test_other_machines_have_none(tmp_path, monkeypatch, system, machine, maxsize):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys, "maxsize", maxsize)

    with pytest.raises(KernelsUnavailable, match=f"not for {system}, {machine}"):
        load_best(tmp_path)


def test_where_the_features_of_the_cpu_are_hidden_none_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    with pytest.raises(KernelsUnavailable, match=r"what this CPU can do is not known: .*cpuinfo"):
        load_best(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"processor : 0\nFeatures : fp asimd\n", b"\xff\xfe"], ids=["empty", "of an ARM", "no text"]
)
def test_a_list_of_features_without_any_says_nothing_of_the_cpu(tmp_path, monkeypatch, content):
    (tmp_path / "cpuinfo").write_bytes(content)
    monkeypatch.setattr(library, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    with pytest.raises(KernelsUnavailable, match=r'what this CPU can do is not known: .*cpuinfo has no line "flags"'):
        load_best(tmp_path)


def test_a_folder_that_cannot_be_looked_into_is_refused_by_name(tmp_path):
    with pytest.raises(KernelsUnavailable, match=r"kkk cannot be read \(File name too long\)"):
        library.fitting_of(X86, ZEN_4, tmp_path / ("k" * 300))
