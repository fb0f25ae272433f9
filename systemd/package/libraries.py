"""What the compiled libraries of a package ask for: pages, glibc, other libraries."""

import re
from pathlib import Path
from typing import NamedTuple

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from systemd.package.suites import PAGE_BYTES, Suite
from systemd.package.wheels import files

_PACKAGES = {"libgcc_s.so.1": "libgcc-s1", "libstdc++.so.6": "libstdc++6", "libz.so.1": "zlib1g"}
"""Which of Debian's packages has each library that wheels take from the system; glibc's are told by their versions."""
_GLIBC = re.compile(r"(ld-linux-.*|lib(c|m|dl|rt|pthread|util))\.so\.\d")
_MIN_GLIBC: tuple[int, ...] = (2, 17)


class Unfit(Exception):  # noqa: N818
    """A library would not load where it is to be installed; every reason, in lines."""


class Library(NamedTuple):
    """`alignment`: of its segments, in bytes. `needed`: other libraries, by name."""

    alignment: int
    needed: set[str]
    glibc: tuple[int, ...]


def read(path: Path) -> Library | None:
    """None of a file that is no library."""
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return None
        elf = ELFFile(file)
        needed, versions = set(), []
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                needed |= {tag.needed for tag in section.iter_tags("DT_NEEDED")}
            elif isinstance(section, GNUVerNeedSection):
                versions += [version.name for _, of_library in section.iter_versions() for version in of_library]
        glibc = [_numbers(name) for name in versions if re.fullmatch(r"GLIBC_[\d.]+", name)]
        alignment = min(segment["p_align"] for segment in elf.iter_segments("PT_LOAD"))
        return Library(alignment, needed, max(glibc, default=_MIN_GLIBC))


def dependencies(site: Path, suite: Suite, arch: str) -> list[str]:
    """Debian's packages that the libraries in a folder need. Raises Unfit."""
    libraries = {path: library for path in files(site) if (library := read(path))}
    brought = {path.name for path in libraries}
    problems, packages, glibc = [], set(), _MIN_GLIBC
    for path, library in libraries.items():
        name = path.relative_to(site)
        glibc = max(glibc, library.glibc)
        if library.alignment % PAGE_BYTES[arch]:
            problems.append(f"{name}: aligned to {library.alignment} bytes, which pages of {PAGE_BYTES[arch]} refuse")
        if library.glibc > suite.glibc:
            problems.append(
                f"{name}: needs glibc {_dotted(library.glibc)}, and {suite.name} has {_dotted(suite.glibc)}"
            )
        for needed in sorted(library.needed - brought):
            if needed in _PACKAGES:
                packages.add(_PACKAGES[needed])
            elif not _GLIBC.fullmatch(needed):
                problems.append(f"{name}: needs {needed}, which nothing brings")
    if problems:
        raise Unfit("\n".join(problems))
    return [f"libc6 (>= {_dotted(glibc)})", *sorted(packages)]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
