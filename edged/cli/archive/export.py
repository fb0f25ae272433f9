"""`edged archive export`: the archive's samples as class folders or WebDataset tar files.

See also: `services.archive.exporter` (what is taken out), `adapters.datasets.export` (what is written).
"""

import argparse
import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from edged.cli.archive.data_set import Bar
from edged.domain.counted import counted
from edged.domain.text import shown
from edged.domain.topology import Stream

if TYPE_CHECKING:  # Parquet and images are imported when they are needed
    from edged.adapters.parquet.store import ParquetStore

FORMS = ("folders", "webdataset")

_LACKING = 1
"""Exit code: something could not be read."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The action's own arguments."""
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="a folder that is not there yet")
    parser.add_argument(
        "--form",
        choices=FORMS,
        default=FORMS[0],
        help="folders: one for each class; webdataset: tar files (folders)",
    )
    parser.add_argument("--json", action="store_true", help="the account as JSON")


def run(store: "ParquetStore", stream: Stream, args: argparse.Namespace) -> int:
    """Export by the options in `args`; 1 when something cannot be read. Raises StorageError, ArchiveUnavailable."""
    from edged.adapters.datasets.export import ClassFolders, TarShards, new_folder  # noqa: PLC0415
    from edged.services.archive import exporter  # noqa: PLC0415

    snapshot = store.snapshot(stream.name)
    left_out: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    kind = ClassFolders if args.form == FORMS[0] else TarShards
    bar = Bar(snapshot.num_samples, stream.name, "samples")
    with new_folder(args.to) as folder, closing(kind(folder, stream)) as writer, bar as on_progress:
        for sample in exporter.samples(store, stream, snapshot, on_progress, left_out):
            reason = writer.add(sample)
            (left_out if reason else taken)[reason or sample.split] += 1
    damaged = sum(each.damaged for each in store.summaries(stream.name))
    if args.json:
        account = {"stream": stream.name, "folder": str(args.to), "form": args.form}
        print(
            json.dumps(
                {**account, "splits": dict(taken), "left_out": dict(+left_out), "damaged_files": damaged}, indent=2
            )
        )
    else:
        print("\n".join(map(shown, _lines(args.to, taken, left_out))))
        if damaged:
            print(f"left out: {counted(damaged, 'file')}, which cannot be read: `edged archive verify` says why")
    return _LACKING if damaged or left_out[exporter.UNREADABLE] else 0


def _lines(folder: Path, taken: Counter[str], left_out: Counter[str]) -> list[str]:
    splits = " and ".join(f"{count:,} of split {split}" for split, count in sorted(taken.items())) or "none"
    lines = [f"left out: {counted(count, 'sample')}: {reason}" for reason, count in sorted((+left_out).items())]
    return [*lines, f"{folder}: {counted(taken.total(), 'sample')}, {splits}; {left_out.total():,} left out"]
