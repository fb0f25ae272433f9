"""Loads compiled kernels that this CPU can run, once they have shown that they fit.

A library is of use only to the code that it was compiled for: before anything is computed it must be whole, name the
kernels.c beside it as its source, and agree with this package on the interface and on the size of each struct. And the
CPU must do what it says it does.

See also: `build` (compiles), `structs` (what passes the border).
"""

import ctypes
import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from edged.adapters.kernels.build import (
    FOLDER,
    REMEDY,
    SOURCE,
    VARIANTS,
    WHY_NOT,
    NotBuilt,
    Variant,
    digest,
    is_whole,
    machine,
)
from edged.adapters.kernels.structs import STRUCTS
from edged.errors import KernelsUnavailable
from edged.files import read_regular

ABI = 3
"""Of kernels.c's EDGED_ABI: raised in both when an exported function changes."""

_CPU_INFO = Path("/proc/cpuinfo")
_MAX_REASON = 1000
_MAX_BYTES = 64 << 20  # of a library, which has 0.3 MB, or of its source
_loading = threading.Lock()


def fitting(folder: Path = FOLDER) -> list[Variant]:
    """The variants that this CPU runs, the best first, of which at least one is in `folder`.

    Raises KernelsUnavailable.
    """
    try:
        variants = VARIANTS[machine()]
    except NotBuilt as error:
        raise KernelsUnavailable(str(error)) from error
    return fitting_of(variants, _cpu_features(variants), folder)


def fitting_of(variants: Sequence[Variant], cpu: frozenset[str], folder: Path) -> list[Variant]:
    """As `fitting`, for a CPU with the features `cpu`."""
    result = [variant for variant in variants if variant.features <= cpu]
    if not result:
        missing = " ".join(sorted(variants[-1].features - cpu))
        raise KernelsUnavailable(f"this CPU lacks {missing}, without which numpy is faster")
    try:
        is_any_here = any((folder / variant.file).exists() for variant in result)
    except OSError as error:
        raise KernelsUnavailable(f"{folder} cannot be read ({error.strerror}): let the node's user read it") from error
    if not is_any_here:
        missing_file = folder / result[0].file
        raise KernelsUnavailable(f"none was compiled{_why_not(folder)} ({missing_file} is missing): {REMEDY}")
    return result


def load(variant: Variant, folder: Path = FOLDER) -> ctypes.CDLL:
    """That library, the same object at each call; calls of its functions release the GIL.

    Raises KernelsUnavailable: its text says why, and what to do if anything can be done.
    """
    with _loading:
        return _load(variant, folder)


def _why_not(folder: Path) -> str:
    """What was noted when nothing compiled, as a part of a sentence; nothing where nothing was noted."""
    try:
        noted = read_regular(folder / WHY_NOT, _MAX_BYTES).decode(errors="replace")
        return f" when edged was installed, because {noted[:_MAX_REASON]}"
    except OSError:
        return ""


@cache
def _load(variant: Variant, folder: Path) -> ctypes.CDLL:
    path = folder / variant.file
    try:
        if not is_whole(read_regular(path, _MAX_BYTES)):  # after a power cut, say: what is loaded may do anything
            raise KernelsUnavailable(f"{path} is damaged, for its checksum differs: {REMEDY}")
        library = ctypes.CDLL(str(path))
        abi, source, size = library.edged_kernels_abi, library.edged_kernels_source, library.edged_kernels_sizeof
        run_here = library.edged_kernels_run_here
    except FileNotFoundError as error:
        raise KernelsUnavailable(f"{path} is missing, as where the compiler does not know its CPU: {REMEDY}") from error
    except (OSError, AttributeError) as error:
        if _is_noexec(folder):
            raise KernelsUnavailable(
                f"{folder} is on a file system that is mounted noexec, from which no library is loaded: mount it "
                "without that, or install edged elsewhere"
            ) from error
        said = str(error).removeprefix(f"{path}: ")
        raise KernelsUnavailable(f"{path} cannot be loaded ({said}): {REMEDY}") from error
    abi.restype, abi.argtypes = ctypes.c_int, ()
    source.restype, source.argtypes = ctypes.c_char_p, ()
    size.restype, size.argtypes = ctypes.c_int64, (ctypes.c_int,)
    if source().decode(errors="replace") != _digest(folder / SOURCE.name):
        raise KernelsUnavailable(f"{path} was compiled from another {SOURCE.name} than the one beside it: {REMEDY}")
    if abi() != ABI:
        raise KernelsUnavailable(f"{path} has interface {abi()}, and this edged knows {ABI}: {REMEDY}")
    for number, struct in enumerate(STRUCTS):
        theirs, ours = size(number), ctypes.sizeof(struct)
        if theirs != ours:
            raise KernelsUnavailable(
                f"{path} has {theirs} bytes for {struct.__name__}, and this edged {ours}: {REMEDY}"
            )
    if not run_here():
        raise KernelsUnavailable(
            f"this CPU, or what emulates it, refuses instructions of {variant.instructions} that {_CPU_INFO} promises"
        )
    return library


def _is_noexec(folder: Path) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_NOEXEC)
    except OSError:
        return False


def _digest(source: Path) -> str:
    try:
        return digest(read_regular(source, _MAX_BYTES))
    except OSError as error:
        raise KernelsUnavailable(f"{source} cannot be read ({error.strerror}): {REMEDY}") from error


def _cpu_features(variants: Sequence[Variant]) -> frozenset[str]:
    """As the kernel lists them for the first CPU. Raises KernelsUnavailable where it lists none.

    Not asked for where no variant needs any: NEON is on each ARM.
    """
    if not any(variant.features for variant in variants):
        return frozenset()
    try:
        lines = _CPU_INFO.read_text(errors="replace").splitlines()
    except OSError as error:
        raise KernelsUnavailable(f"what this CPU can do is not known: {_CPU_INFO}: {error.strerror}") from error
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), None)
    if flags is None:
        raise KernelsUnavailable(f'what this CPU can do is not known: {_CPU_INFO} has no line "flags"')
    return frozenset(flags.split())
