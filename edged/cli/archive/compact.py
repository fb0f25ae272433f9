"""`edged archive compact`: packs small files into large ones, while edges train from them."""

import argparse
import json
from typing import TYPE_CHECKING

from edged.cli.archive.data_set import Bar
from edged.cli.arguments import duration
from edged.domain.counted import counted

if TYPE_CHECKING:  # as in `archive`
    from edged.adapters.parquet.store import ParquetStore

_FINDINGS = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """The action's own arguments."""
    parser.add_argument(
        "--grace",
        type=duration,
        default=86_400.0,
        metavar="TIME",
        help="for how long replaced files are kept, which running epochs may read (1d)",
    )


def run(store: "ParquetStore", args: argparse.Namespace) -> int:
    """Pack, and say of each source what came of it. Raises StorageError, ArchiveUnavailable."""
    totals: dict[tuple[str, str], list[int]] = {}
    refused: list[dict[str, str]] = []
    with Bar(None, "packing", "files") as on_progress:
        for step in store.compact(args.stream, args.grace):
            if step.refused:
                refused.append({"stream": step.stream, "source": step.source, "reason": step.refused})
                continue
            of_source = totals.setdefault((step.stream, step.source), [0, 0, 0, 0])
            for place, number in enumerate((step.files, int(step.files > 0), step.num_bytes, step.deleted)):
                of_source[place] += number
            on_progress(step.files + step.deleted)
    names = ("packed", "into", "bytes", "deleted")
    shown = [
        {"stream": stream, "source": source, **dict(zip(names, numbers, strict=True))}
        for (stream, source), numbers in totals.items()
    ]
    if args.json:
        print(json.dumps({"sources": shown, "refused": refused}, indent=2))
        return _FINDINGS if refused else 0
    for (stream, source), (packed, into, num_bytes, deleted) in totals.items():
        what = f"{counted(packed, 'file')} packed into {into:,} ({num_bytes / 1e6:,.1f} MB)" if packed else ""
        gone = f"{counted(deleted, 'replaced file')} deleted" if deleted else ""
        print(f"{stream}/{source}: {', '.join(filter(None, (what, gone)))}")
    for one in refused:
        print(f"{one['stream']}/{one['source']}: not packed: {one['reason']}")
    if not totals and not refused:
        print("nothing to pack and nothing to delete")
    return _FINDINGS if refused else 0
