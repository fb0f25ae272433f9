"""Makes a Debian package of a folder, by dpkg-deb."""

import hashlib
import os
import re
from pathlib import Path

from systemd.package.suites import Suite
from systemd.package.tree import MAINTAINER, VENV, write
from systemd.package.wheels import files, run

SCRIPTS = Path(__file__).parent / "scripts"
_PRERELEASE = re.compile(r"(?<=\d)(?=(?:a|b|rc)\d)")
DESCRIPTIONS = {
    "edged": """\
trains at the edge while the data streams
 A node of a site: it trains on what its devices send by Apache Kafka, and
 predicts beside that. `edged node enable NODE` has systemd run a node of
 /etc/edged/topology.yaml.""",
    "edged-archive": """\
trains at the edge while the data streams: the archive
 What the node that keeps all samples of a site needs beside the package
 edged: Parquet.""",
}


def version_of(wheel: Path, suite: Suite) -> str:
    """Debian's version for the wheel's, in the same order: before "~" comes nothing, and before that "~~"."""
    version = wheel.name.split("-")[1].replace(".dev", "~~dev")
    return f"{_PRERELEASE.sub('~', version)}+deb{suite.number}"


def needs(package: str, version: str, suite: Suite) -> list[str]:
    """What a package depends on beside libraries.

    An archive's needs an edged that is not older, and goes with each newer one, so that an upgrade of one never removes
    the other. Both are for one Python, which keeps them to one release of Debian.
    """
    major, minor = suite.python
    python = [f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1})"]
    return [*python, "systemd"] if package == "edged" else [*python, f"edged (>= {version})"]


def make(
    tree: Path, package: str, suite: Suite, fields: dict[str, str], date_s: int, file: Path, *, quick: bool
) -> None:
    """Pack `tree`. The same files, fields and date give the same bytes. `quick`: without compressing them."""
    _describe(tree, package, suite, fields)
    _settle(tree, date_s)
    # By one thread: what several make of a file depends on their number.
    compression = "-Znone" if quick else "-Zxz"
    options = ("--root-owner-group", "--threads-max=1", compression, "--build")
    run("dpkg-deb", *options, tree, file, SOURCE_DATE_EPOCH=str(date_s))


def _describe(tree: Path, package: str, suite: Suite, fields: dict[str, str]) -> None:
    kept = [path for path in files(tree) if not path.is_symlink()]
    kib = sum(path.stat().st_size // 1024 + 1 for path in kept)
    digests = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in kept]  # noqa: S324
    control = {"Package": package, "Maintainer": MAINTAINER, "Installed-Size": str(kib), "Section": "science"}
    control |= {"Priority": "optional", "Homepage": "https://example.org/edged"} | fields
    control |= {"Description": DESCRIPTIONS[package]}
    write(tree / "DEBIAN/control", "".join(f"{key}: {value}\n" for key, value in control.items()))
    write(tree / "DEBIAN/md5sums", "".join(digests))
    if package == "edged":  # for postinst: what is imported has changed, also when the archive's package did it
        write(tree / "DEBIAN/triggers", f"interest-noawait /{VENV}\n")
    compiled_kib = sum(path.stat().st_size // 1024 + 1 for path in kept if path.suffix == ".py")
    needed_mib = str((kib + compiled_kib) // 1024 + 1)
    for script in (*SCRIPTS.glob("each.*"), *SCRIPTS.glob(f"{package}.*")):
        text = script.read_text().replace("@PYTHON@", suite.python_version).replace("@NEEDED_MIB@", needed_mib)
        write(tree / "DEBIAN" / script.suffix[1:], text, 0o755)


def _settle(tree: Path, date_s: int) -> None:
    """Give all files modes and times that depend on nothing else."""
    for path in (*tree.rglob("*"), tree):
        if not path.is_symlink():
            is_program = path.parent.name in {"bin", "DEBIAN"} and path.stat().st_mode & 0o100
            path.chmod(0o755 if path.is_dir() or is_program else 0o644)
        os.utime(path, (date_s, date_s), follow_symlinks=False)
