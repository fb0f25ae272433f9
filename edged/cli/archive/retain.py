"""`edged archive retain`: forgets what is beyond the limits of `archive.retention`, as the node does by itself."""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edged.cli.archive.data_set import Bar
from edged.cli.arguments import duration
from edged.domain.archive.retention import Deleted, Forgotten, Limits, Spared
from edged.domain.counted import counted
from edged.domain.topology import Topology

if TYPE_CHECKING:  # as in `archive`
    from edged.adapters.parquet.store import ParquetStore

_FINDINGS = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """The action's own arguments."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would be forgotten and deleted")
    parser.add_argument(
        "--grace",
        type=duration,
        default=86_400.0,
        metavar="TIME",
        help="for how long forgotten files are kept, which running epochs may read (1d)",
    )


def run(topology: Topology, store: "ParquetStore", args: argparse.Namespace) -> int:
    """Forget, and say of each source what. Raises StorageError, ArchiveUnavailable."""
    retention = topology.archive[0].retention
    there = set(store.streams())
    spared: list[Spared] = []
    totals: defaultdict[tuple[str, str], dict[str, Any]] = defaultdict(lambda: {"samples": 0, "bytes": 0, "deleted": 0})
    with Bar(None, "forgetting", "files") as on_progress:
        for stream in [each.name for each in topology.streams if args.stream in {None, each.name}]:
            kept = retention.of(stream)
            limits = Limits(kept.age_s, kept.size)
            for step in (
                store.retain(stream, limits, grace_s=args.grace, is_certain=True, dry_run=args.dry_run)
                if stream in there
                else ()
            ):
                if isinstance(step, Spared):
                    spared.append(step)
                    continue
                of_source = totals[step.stream, step.source]
                if isinstance(step, Forgotten):
                    of_source |= {"why": step.what.why, "first": step.what.first}
                    of_source["samples"] += step.what.samples
                    of_source["bytes"] += step.what.num_bytes
                    on_progress(step.what.files)
                if isinstance(step, Deleted):
                    of_source["deleted"] += step.files
                    on_progress(step.files)
    shown = [{"stream": stream, "source": source, **of_source} for (stream, source), of_source in totals.items()]
    if args.json:
        refused = [each._asdict() for each in spared]
        print(json.dumps({"dry_run": args.dry_run, "sources": shown, "refused": refused}, indent=2))
    else:
        _print(shown, spared, dry_run=args.dry_run)
    return _FINDINGS if spared else 0


def _print(shown: Sequence[dict[str, Any]], spared: Sequence[Spared], *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for each in shown:
        forgotten = (
            f"{counted(each['samples'], 'sample')} ({each['bytes'] / 1e6:,.1f} MB) {would}forgotten by {each['why']}, "
            f"all before offset {each['first']}"
            if each["samples"] or "first" in each
            else ""
        )
        gone = f"{counted(each['deleted'], 'forgotten file')} {would}deleted" if each["deleted"] else ""
        print(f"{each['stream']}/{each['source']}: {', '.join(filter(None, (forgotten, gone)))}")
    for one in spared:
        print(
            f"{one.stream}/{one.source}: not looked after: {one.reason}"
            if one.source
            else f"{one.stream}: {one.reason}"
        )
    if not shown:
        print("nothing to forget and nothing to delete")
