"""Loads the compiled kernels for this CPU, once they have shown that they fit.

A library is of use only to the code that it was compiled for: before anything is computed it must name the kernels.c
beside it as its source, and agree with this package on the interface and on the size of each struct.

See also: `build` (compiles), `structs` (what passes the border).
"""

import ctypes
import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from struct import Struct

from edged.adapters.kernels.build import FOLDER, REMEDY, SOURCE, VARIANTS, NotBuilt, Variant, digest, machine
from edged.adapters.kernels.structs import STRUCTS
from edged.domain.counted import counted
from edged.errors import KernelsUnavailable

ABI = 1
"""Of kernels.c's EDGED_ABI: raised in both when an exported function changes."""

_NONE_REMEDY = f"{REMEDY}; `pip install -v .` shows why it was not"
_CPU_INFO = Path("/proc/cpuinfo")
_ELF_HEADER = Struct("<40xQ10xHH2x")  # where the table of sections begins; the size and number of its entries
_loading = threading.Lock()


def load(folder: Path = FOLDER) -> ctypes.CDLL:
    """The kernels in `folder`, the same object at each call; calls of its functions release the GIL.

    Raises KernelsUnavailable: its text says why, and what to do if anything can be done.
    """
    with _loading:
        return _load(folder)


def chosen(folder: Path = FOLDER) -> Variant:
    """Of the libraries in `folder`, the best for this CPU; not loaded. Raises KernelsUnavailable."""
    try:
        variants = VARIANTS[machine()]
    except NotBuilt as error:
        raise KernelsUnavailable(str(error)) from error
    return best(variants, _cpu_features(variants), folder)


def best(variants: Sequence[Variant], cpu: frozenset[str], folder: Path) -> Variant:
    """The first of `variants` that a CPU with the features `cpu` runs, and that is there. Raises KernelsUnavailable."""
    fitting = [variant for variant in variants if variant.features <= cpu]
    if not fitting:
        missing = " ".join(sorted(variants[-1].features - cpu))
        raise KernelsUnavailable(f"this CPU lacks {missing}, without which numpy is faster")
    try:
        found = next((variant for variant in fitting if (folder / variant.file).is_file()), None)
    except OSError as error:
        raise KernelsUnavailable(f"{folder} cannot be read ({error.strerror}): let the node's user read it") from error
    if found is None:
        raise KernelsUnavailable(f"none was compiled ({folder / fitting[0].file} is missing): {_NONE_REMEDY}")
    return found


@cache
def _load(folder: Path) -> ctypes.CDLL:
    path = folder / chosen(folder).file
    try:
        if missing := _missing_bytes(path):
            raise KernelsUnavailable(f"{path} is not whole, it lacks {counted(missing, 'byte')} at its end: {REMEDY}")
        library = ctypes.CDLL(str(path))
        abi, source, size = library.edged_kernels_abi, library.edged_kernels_source, library.edged_kernels_sizeof
    except (OSError, AttributeError) as error:
        raise KernelsUnavailable(f"{path} cannot be loaded ({error}): {REMEDY}") from error
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
    return library


def _missing_bytes(path: Path) -> int:
    """How many the file lacks at its end, where linkers put the table of sections. Raises OSError.

    After a power cut, or an installation onto a full disk: the process that loads such a file ends by a signal.
    """
    with path.open("rb") as file:
        header = file.read(_ELF_HEADER.size)
        size = file.seek(0, os.SEEK_END)
    if len(header) < _ELF_HEADER.size or not header.startswith(b"\x7fELF"):
        return 0  # no such file at all: the loader says so
    table, entry, entries = _ELF_HEADER.unpack(header)
    return max(0, int(table + entry * entries) - size)


def _digest(source: Path) -> str:
    try:
        return digest(source)
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
