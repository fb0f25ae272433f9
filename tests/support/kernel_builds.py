"""Builds of kernels.c by other compilers, for other CPUs and with other options than the installed one."""

import ctypes
import shutil
from collections.abc import Sequence
from pathlib import Path

from edged.adapters.kernels import build
from edged.adapters.kernels.backend import CompiledBackend
from edged.adapters.kernels.library import fitting, load
from edged.adapters.kernels.structs import declare
from edged.errors import KernelsUnavailable
from tests.support.requirements import require

ARM_COMPILER = "aarch64-linux-gnu-gcc"


def flags_of_this_cpu() -> list[str]:
    """What makes the own compiler compile for the best variant that this CPU runs."""
    return [variant.cc for variant in runnable()[:1]]


def runnable() -> list[build.Variant]:
    """The installed variants that this CPU runs, the best first; ends the test where there are none."""
    try:
        load_best(build.FOLDER)  # not of another source
        return fitting(build.FOLDER)
    except KernelsUnavailable as reason:
        require(f"compiled kernels: {reason}")


def load_best(folder: Path) -> ctypes.CDLL:
    """Of the libraries in `folder`, the best that this CPU runs. Raises KernelsUnavailable."""
    return load(fitting(folder)[0], folder)


def compiled(library: Path, command: Sequence[str], *flags: str, source: Path = build.SOURCE) -> Path:
    """`library`, compiled by `command` with the product's flags and then `flags`; ends the test where none compiles."""
    if shutil.which(command[0]) is None:
        require(f"no {command[0]}")
    build.compile_to(library, command, flags, source=source)
    return library


def own_compiler() -> list[str]:
    """The command of this system's compiler; ends the test where there is none."""
    try:
        return build.own_compiler(build.machine())
    except build.NotBuilt as reason:
        require(str(reason))


def pinned_compiler(machine: str) -> list[str]:
    """The command of the published wheels' compiler; ends the test where it is not installed."""
    try:
        return build.zig(machine)
    except build.NotBuilt as reason:
        require(str(reason))


def backend_of(library: Path) -> CompiledBackend:
    """A backend that computes by `library`, whatever its source."""
    loaded = ctypes.CDLL(str(library))
    declare(loaded)
    return CompiledBackend(loaded)


def sanitised(library: Path) -> Path:
    """`library`, compiled so that what C leaves undefined ends the process, which has to load libasan first."""
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O0"]
    flags = ["-fPIC", "-shared", "-ffp-contract=off", *flags_of_this_cpu(), *checks]
    build.run([*own_compiler(), *flags, "-o", str(library), str(build.SOURCE)], 600)
    return library
