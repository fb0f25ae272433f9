"""Writes the manual and the completions of `edged`, made from its parsers, as a Debian package has them below /usr.

    python systemd/manual.py FOLDER

For whoever builds a package: they are made there and kept nowhere. Needs the extra `package`, which no daemon loads.
The same edged gives the same bytes; SOURCE_DATE_EPOCH dates the manual.
"""

import argparse
import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from edged import __version__
from edged.cli import whole_parser

_COMPLETIONS = {
    "bash": "share/bash-completion/completions/edged",
    "zsh": "share/zsh/vendor-completions/_edged",
    "fish": "share/fish/vendor_completions.d/edged.fish",
}
_MANUAL = "share/man/man1/edged.1.gz"
_WIDTH = "100"

_FILES = {
    "/etc/edged/topology.yaml": "the site's topology, which the units read",
    "/etc/edged/credentials/NODE": "a node's secrets, for root alone",
    "/var/lib/edged/NODE": "its checkpoints and models",
    "/var/cache/edged/NODE": "its cache, which may be deleted while the node does not run",
    "/usr/share/doc/edged/examples": "topologies to begin with",
}
"""Where the package has a node's."""


def files() -> dict[str, bytes]:
    """The content of each file, by its path below the folder."""
    parser = whole_parser()
    for action in _actions(parser):
        if action.type is Path or action.metavar == "SPEC":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    made = {path: shtab.complete(parser, shell=shell).encode() for shell, path in _COMPLETIONS.items()}
    manual = Manpage(parser, {"description": "train at the edge while data streams"})
    manual.manual, manual.source = "edged", f"edged {__version__}"
    manual.add_section("files", "=", "\n".join(f".TP\n.I {path}\n{text}" for path, text in _FILES.items()))
    manual.add_section("notes", "=", "\n".join(_epilogs(parser)))
    return made | {_MANUAL: gzip.compress(f"{manual}".encode(), 9, mtime=0)}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments, those of sub-commands too."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for each in action.choices.values():
                yield from _actions(each)


def _epilogs(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What the manual would leave out of the commands' help, in troff."""
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for each in action.choices.values():
                if each.epilog:
                    text = each.epilog.replace("\\", "\\\\").replace("-", "\\-")
                    yield f".TP\n.B {each.prog}\n{text}"


def main() -> None:
    """Write them below the folder of the command line."""
    parser = argparse.ArgumentParser(description="Write the manual and the completions of edged.")
    parser.add_argument("folder", type=Path, help="such as debian/edged/usr")
    folder = parser.parse_args().folder
    os.environ["COLUMNS"] = _WIDTH  # argparse's usage lines are as wide as the terminal
    for name, content in files().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        print(file)


if __name__ == "__main__":
    main()
