"""The parser of arguments that all commands have, and a line for each of them that is right."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from edged.domain.suggest import nearest

EXAMPLES = {
    "edged": "edged check topology.yaml    # edged --help lists the commands",
    "edged check": "edged check topology.yaml --node pi-a",
    "edged schema": "edged schema > topology.schema.json",
    "edged topics": "edged topics topology.yaml    # those of all nodes",
    "edged run": "edged run topology.yaml --node pi-a",
    "edged infer": "edged infer topology.yaml --node pi-a",
    "edged sensor": "edged sensor topology.yaml --node cam-01 --from photos",
    "edged archive": "edged archive ls topology.yaml",
    "edged archive init": "edged archive init topology.yaml    # the folder is the one that the file gives the archive",
    "edged archive import": "edged archive import topology.yaml --from photos",
    "edged archive ls": "edged archive ls topology.yaml --stream fashion",
    "edged archive verify": "edged archive verify topology.yaml --stream fashion",
    "edged archive export": "edged archive export topology.yaml --to photos",
    "edged archive compact": "edged archive compact topology.yaml --grace 2d",
    "edged archive retain": "edged archive retain topology.yaml --dry-run",
    "edged archive migrate": "edged archive migrate topology.yaml",
    "edged archive quarantine": "edged archive quarantine topology.yaml fashion/pi-a/0/7",
    "edged archive release": "edged archive release topology.yaml fashion/pi-a/0/7",
    "edged replay": "edged replay topology.yaml --prove /var/lib/edged/pi-a",
    "edged node": "edged node enable pi-a    # systemctl status edged@pi-a shows how it is",
    "edged node enable": "edged node enable pi-a    # its units read /etc/edged/topology.yaml: put the site's there",
    "edged node disable": "edged node disable pi-a",
    "edged demo": "edged demo --data photos    # it makes a topology of its own",
}
"""By the names of the parsers: what wrong usage is answered with."""


class Parser(argparse.ArgumentParser):
    """Wrong usage exits with EX_USAGE, which a service manager can tell from a crash, and is told what is right."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override] # without its overloads
        """As argparse's, but what is not known is an error here: of an action's own parser, not of the command's."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(map(self._with_hint, unknown))}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        example = EXAMPLES.get(self.prog)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n" + (f"for example: {example}\n" if example else ""))

    def _with_hint(self, word: str) -> str:
        names = [option.removeprefix("--") for option in self._option_string_actions if option.startswith("--")]
        name = nearest(word.lstrip("-").partition("=")[0], names) if word.startswith("-") else ""
        return f'{word} (did you mean "--{name}"?)' if name else word
