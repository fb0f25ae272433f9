"""Builds edged's Debian packages from wheels, for any architecture: `python -m systemd.package FOLDER` in a checkout.

`edged` is for edges and companions, `edged-archive` adds what the archive node needs. One of each for a suite (wheels
are made for one Python) and an architecture; nothing but edged's kernels is compiled, and nothing of the packages is
run. The same checkout gives the same bytes: the wheels are pinned, and times are SOURCE_DATE_EPOCH, or the last
commit's.

Needs the extra `package`, dpkg-deb and git.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from systemd.package import deb, libraries, tree, wheels
from systemd.package.suites import MACHINES, SUITES, Suite

PACKAGES = tuple(deb.DESCRIPTIONS)


def build(
    suite: Suite, arch: str, wheel: Path, out: Path, *, packages: Sequence[str] = PACKAGES, quick: bool = False
) -> Iterator[Path]:
    """These packages, with this wheel of edged. Raises Unfit."""
    version, date_s = deb.version_of(wheel, suite), source_date_s()
    with tempfile.TemporaryDirectory(prefix="edged-package-") as name:
        folders = {package: Path(name) / package for package in packages}
        sites = {package: tree.site(folder, package, suite) for package, folder in folders.items()}
        for package, site in sites.items():
            site.mkdir(parents=True)
            wheels.unpack(package, suite, arch, site, *([wheel] if package == "edged" else []))
            depends = libraries.dependencies(site, suite, arch)
            if package == "edged":
                tree.lay_out(folders[package], suite, date_s)
            tree.document(folders[package], package, suite, version, date_s)
            fields = {
                "Version": version,
                "Architecture": arch,
                "Depends": ", ".join([*deb.needs(package, version, suite), *depends]),
            }
            file = out / f"{package}_{version}_{arch}.deb"
            deb.make(folders[package], package, suite, fields, date_s, file, quick=quick)
            yield file


def source_date_s() -> int:
    """Seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or wheels.run("git", "-C", wheels.ROOT, "log", "-1", "--format=%ct"))


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m systemd.package", description="Builds edged's Debian packages.")
    parser.add_argument("--suite", choices=SUITES, action="append", help="of Debian, all by default; may be repeated")
    parser.add_argument("--arch", choices=MACHINES, action="append", help="all by default; may be repeated")
    parser.add_argument("--package", choices=PACKAGES, action="append", help="both by default; may be repeated")
    parser.add_argument("--wheels", type=Path, help="a folder with edged's own wheels; made if left out")
    parser.add_argument("--quick", action="store_true", help="do not compress: to try packages, not to publish them")
    parser.add_argument("out", type=Path, metavar="FOLDER", help="for the packages")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edged-wheels-") as name:
        for arch in args.arch or MACHINES:
            wheel = wheels.find_own(arch, args.wheels) if args.wheels else wheels.own(arch, Path(name))
            for suite in args.suite or SUITES:
                packages = args.package or PACKAGES
                try:
                    for file in build(SUITES[suite], arch, wheel, args.out, packages=packages, quick=args.quick):
                        print(f"{file.stat().st_size / 1e6:6.1f} MB  {file}")
                except libraries.Unfit as unfit:
                    sys.exit(f"for {suite}, {arch}:\n{unfit}")


if __name__ == "__main__":
    main()
