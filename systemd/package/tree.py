"""The files of the package `edged` beside its wheels, and each package's documents."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

from systemd.package.suites import Suite
from systemd.package.wheels import ROOT, run

UNITS = ROOT / "systemd"
VENV = Path("usr/lib/edged")
ARCHIVE = VENV / "archive"
PROGRAM = "/usr/bin/edged"
MAINTAINER = "edged <edged@example.org>"
"""In a reserved domain, as all of the project's addresses: see decision 31 in edged/DECISIONS.md."""

_OTHER_PROGRAM = re.compile(r"^#   program .*\n|/opt/edged/bin/edged", re.MULTILINE)


def site(tree: Path, package: str, suite: Suite) -> Path:
    """The folder for a package's wheels.

    The archive's is its own, and looked into last: whichever of the two packages is newer, they share no file.
    """
    return tree / (ARCHIVE if package == "edged-archive" else VENV / f"lib/python{suite.python_version}/site-packages")


def lay_out(tree: Path, suite: Suite, date_s: int) -> None:
    """A virtual environment around the wheels, the program and its manual, units, user, topology's folder, examples."""
    _make_environment(tree, suite)
    run(sys.executable, UNITS / "manual.py", tree / "usr", PYTHONPATH=str(ROOT), SOURCE_DATE_EPOCH=str(date_s))
    for unit in UNITS.glob("*.service"):
        text = _OTHER_PROGRAM.sub(_program, unit.read_text())
        assert f"ExecStart={PROGRAM} " in text
        write(tree / "usr/lib/systemd/system" / unit.name, text)
        for name in suite.drop_ins:
            write(tree / f"usr/lib/systemd/system/{unit.name}.d" / name, (UNITS / name).read_text())
    write(tree / "usr/lib/sysusers.d/edged.conf", (UNITS / "edged.sysusers").read_text())
    (tree / "etc/edged").mkdir(parents=True)
    for example in (ROOT / "config").glob("*.yaml"):
        write(tree / "usr/share/doc/edged/examples" / example.name, example.read_text())


def _make_environment(tree: Path, suite: Suite) -> None:
    venv = tree / VENV
    version = f"version = {suite.python_version}\n"
    write(venv / "pyvenv.cfg", f"home = /usr/bin\ninclude-system-site-packages = false\n{version}")
    write(site(tree, "edged", suite) / "edged-archive.pth", f"/{ARCHIVE}\n")
    (venv / "bin").mkdir()
    (venv / "bin/python3").symlink_to(f"/usr/bin/python{suite.python_version}")
    script = f"#!/{VENV}/bin/python3\nfrom edged.cli import run_and_exit\n\nrun_and_exit()\n"
    write(venv / "bin/edged", script, 0o755)
    (tree / PROGRAM[1:]).parent.mkdir()
    (tree / PROGRAM[1:]).symlink_to("../lib/edged/bin/edged")


def _program(found: re.Match[str]) -> str:
    is_comment = found[0].startswith("#")
    return f"#   program        {PROGRAM}, of the package edged\n" if is_comment else PROGRAM


def document(tree: Path, package: str, suite: Suite, version: str, date_s: int) -> None:
    """Say under which licences its parts are, and when it was made."""
    documents, wheels = tree / "usr/share/doc" / package, site(tree, package, suite)
    parts = "".join(f"  {folder.name}\n" for folder in sorted(wheels.glob("*.dist-info")))
    write(
        documents / "copyright",
        "edged is licensed under the Apache License, version 2.0: /usr/share/common-licenses/Apache-2.0\n\n"
        f"Its parts come from the Python Package Index, each under the licence in its folder below\n"
        f"/{wheels.relative_to(tree)}:\n\n{parts}",
    )
    day = subprocess.check_output(["date", "--utc", "--rfc-email", f"--date=@{date_s}"], text=True)
    change = f"{package} ({version}) {suite.name}; urgency=medium\n\n  * Made from wheels.\n\n -- {MAINTAINER}  {day}"
    (documents / "changelog.gz").write_bytes(gzip.compress(change.encode(), mtime=date_s))


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file, and make its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
