"""`edged archive verify`: reads the archive again and reports what is wrong, as it is found.

See also: `adapters.parquet.verify` (what is looked at).
"""

import argparse
import json
import math
import sys
from collections import Counter
from typing import TYPE_CHECKING

from edged.cli.archive.data_set import Bar
from edged.cli.arguments import duration
from edged.domain.counted import counted
from edged.domain.samples.border import Border

if TYPE_CHECKING:  # as in `archive`
    from edged.adapters.parquet.store import ParquetStore
    from edged.adapters.parquet.verify import Finding


def add_options(parser: argparse.ArgumentParser) -> None:
    """The action's own arguments."""
    parser.add_argument(
        "--since",
        type=duration,
        default=math.inf,
        metavar="TIME",
        help="read only files that were written in the last TIME, such as 7d; of the others the place and the size are "
        "checked (all are read)",
    )


class Account:
    """What was found and read so far. Findings are printed at once: of a large archive they may be many."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.num_findings = 0
        self.files: Counter[bool] = Counter()
        """Whether they were read."""

    def add(self, finding: "Finding") -> None:
        """Print it, as the next element of a JSON list or as a line."""
        if self._as_json:
            print(f"{',' if self.num_findings else ''}\n    {json.dumps(finding._asdict())}", end="")
        else:
            print(f"{finding.kind}: {finding.path}: {finding.detail}")
        sys.stdout.flush()
        self.num_findings += 1

    def summary(self) -> str:
        """The last line."""
        found = counted(self.num_findings, "finding") if self.num_findings else "all is well"
        files = f"{counted(self.files[True], 'file')} read"
        return f"{found}: {files}" + (f", {self.files[False]:,} older ones not" if self.files[False] else "")


def verify(store: "ParquetStore", border: Border, args: argparse.Namespace) -> Account:
    """Verify by the options in `args`. Raises StorageError, ArchiveUnavailable."""
    account = Account(as_json=args.json)
    with Bar(None, "verifying", "files") as on_progress:

        def on_file(is_read: bool) -> None:  # noqa: FBT001 - as the store calls it
            account.files[is_read] += 1
            on_progress(1)

        for finding in store.verify(args.stream, border, args.since, on_file):
            account.add(finding)
    return account
