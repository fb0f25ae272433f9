"""`edged archive`: make the archive, bring data sets in and out, list and verify, take samples out of training.

See also: `data_set` (import), `export`, `compact`, `retain`, `verify`, `migrate`, `quarantine`.
"""

import argparse
import contextlib
import json
import os
import pwd
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged import topology_file
from edged.cli.archive import compact as archive_compact
from edged.cli.archive import data_set
from edged.cli.archive import export as archive_export
from edged.cli.archive import migrate as archive_migrate
from edged.cli.archive import quarantine as archive_quarantine
from edged.cli.archive import retain as archive_retain
from edged.cli.archive import verify as archive_verify
from edged.cli.arguments import add_topology
from edged.cli.problems import complain
from edged.domain.archive.snapshot import OVERLAY_SOURCES, QUARANTINE_SOURCE
from edged.domain.counted import counted
from edged.domain.samples.border import Border
from edged.domain.systemd.setup import USER, archive_folder
from edged.domain.topology import Stream, Topology
from edged.errors import ArchiveUnavailable, FormatError, StorageError

if TYPE_CHECKING:  # Parquet and images are imported when they are needed
    from edged.adapters.parquet.store import ParquetStore, SourceSummary

SUMMARY = "make the archive, import and export data sets, list, verify and compact it, take samples out of training"

_FINDINGS = 1
_WRITING = {"init", "import", "compact", "retain", "migrate", "quarantine", "release"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = (
        "Exit codes: 1 verify has findings, export could not read all, or compact or retain not look after all; 64 the "
        "data set does not fit, or an address names nothing; 74 no archive, or it refused; 78 migrate: the version "
        "before has to archive more."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    init = actions.add_parser("init", help="make the folder if need be and mark it as the archive; import does so, too")
    init.set_defaults(act=_init)
    bring = actions.add_parser("import", help="bring a data set in; an interrupted import continues where it ended")
    data_set.add_options(bring)
    bring.set_defaults(act=_import)

    take = actions.add_parser("export", help="write a stream's samples for other programs: class folders, or tar files")
    archive_export.add_options(take)
    take.set_defaults(act=_export)

    listing = actions.add_parser("ls", help="what the archive holds of each source")
    listing.add_argument("--files", action="store_true", help="the files that count, for other readers of Parquet")
    listing.set_defaults(act=_ls)
    verify = actions.add_parser("verify", help="read everything and report what is wrong; exit 1 when something is")
    archive_verify.add_options(verify)
    verify.set_defaults(act=_verify)

    pack = actions.add_parser("compact", help="pack small files into large ones, while edges train from them")
    archive_compact.add_options(pack)
    pack.set_defaults(act=_compact)

    forget = actions.add_parser(
        "retain", help="forget what is beyond the limits of archive.retention, as the node does"
    )
    archive_retain.add_options(forget)
    forget.set_defaults(act=_retain)

    migrate = actions.add_parser("migrate", help="bring an archive of an older edged to this one's format")
    migrate.set_defaults(act=_migrate)

    take_out = actions.add_parser(
        "quarantine", help="take samples or blocks out of training, by the addresses that log lines and ls print"
    )
    take_out.set_defaults(act=_change, quarantine_action="quarantine")
    release = actions.add_parser("release", help="bring them back")
    release.set_defaults(act=_change, quarantine_action="release")

    for action in (init, bring, take, listing, verify, pack, forget, migrate, take_out, release):
        add_topology(action)
    for action in (take_out, release):
        archive_quarantine.add_addresses(action)
    for action in (bring, take):
        action.add_argument("--stream", metavar="NAME", help="which stream (the one trained on)")
    for action in (listing, verify, pack, forget):
        action.add_argument("--stream", metavar="NAME", help="only this stream")
    for action in (listing, verify, pack, forget, migrate):
        action.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Carry out `args.action`; the exit code."""
    topology = topology_file.load(args.topology, needs_kafka=args.action == "migrate")
    try:
        if args.action in _WRITING:
            _leave_to_node(archive_folder(topology), args.action)
        code: int = args.act(topology, args)
    except FormatError as error:
        complain("edged archive", error)
        return os.EX_USAGE
    except (StorageError, ArchiveUnavailable) as error:
        complain("edged archive", error)
        return os.EX_IOERR
    return code


def _leave_to_node(folder: str, action: str) -> None:
    """Raise StorageError where root would make files in a node's archive, which that node could not change."""
    with contextlib.suppress(KeyError, OSError):
        if os.geteuid() == 0 and folder and Path(folder).stat().st_uid == pwd.getpwnam(USER).pw_uid:
            command = f"runuser -u {USER} -- edged archive {action} …"
            raise StorageError(
                f"{folder} belongs to {USER}, whose node could not change what root makes there: {command}"
            )


def _init(topology: Topology, _args: argparse.Namespace) -> int:
    url = topology.archive[0].url
    print(f"{url} is an archive {'now' if _store(topology).create(topology.site) else 'already'}")
    return 0


def _import(topology: Topology, args: argparse.Namespace) -> int:
    stream = _stream(topology, args.stream)
    dataset = data_set.open_data_set(stream, args)
    store = _store(topology)
    if store.create(topology.site):
        print(f"{topology.archive[0].url} is an archive now", file=sys.stderr if args.json else sys.stdout)
    return data_set.import_dataset(store, stream, dataset, args)


def _export(topology: Topology, args: argparse.Namespace) -> int:
    return archive_export.run(_store(topology), _stream(topology, args.stream), args)


def _ls(topology: Topology, args: argparse.Namespace) -> int:
    store = _store(topology)
    if args.files:
        files = (f"{topology.archive[0].url.rstrip('/')}/{name}" for name in store.files(args.stream))
        print(json.dumps({"files": list(files)}, indent=2) if args.json else "\n".join(files))
        return 0
    summaries = store.summaries(args.stream)
    quarantined = _quarantined(store, summaries)
    if args.json:
        print(json.dumps({"sources": _sources(summaries, quarantined), "quarantine": quarantined}, indent=2))
    else:
        _print_table(_sources(summaries, quarantined))
        _print_damaged(summaries)
        _print_forgotten(summaries)
        archive_quarantine.print_quarantine(quarantined)
    return 0


def _change(topology: Topology, args: argparse.Namespace) -> int:
    return archive_quarantine.change(topology, _store(topology), args.quarantine_action, args.addresses)


def _verify(topology: Topology, args: argparse.Namespace) -> int:
    store = _store(topology)
    if args.json:
        print('{"findings": [', end="")
    account = archive_verify.verify(store, Border.of(topology), args)
    summaries = store.summaries(args.stream)
    quarantined: list[dict[str, Any]] | None = None
    with contextlib.suppress(StorageError):  # which is a finding
        quarantined = _quarantined(store, summaries)
    sources = _sources(summaries, quarantined)
    if args.json:
        rest = {
            "files": {"read": account.files[True], "not_read": account.files[False]},
            "sources": sources,
            "quarantine": quarantined or [],
        }
        print(f"],\n{json.dumps(rest, indent=2)[2:]}")
    else:
        _print_table(sources)
        _print_forgotten(summaries)
        archive_quarantine.print_quarantine(quarantined or [])
        print(account.summary())
    return _FINDINGS if account.num_findings else 0


def _compact(topology: Topology, args: argparse.Namespace) -> int:
    return archive_compact.run(_store(topology), args)


def _retain(topology: Topology, args: argparse.Namespace) -> int:
    return archive_retain.run(topology, _store(topology), args)


def _migrate(topology: Topology, args: argparse.Namespace) -> int:
    return archive_migrate.run(topology, as_json=args.json)


def _quarantined(store: "ParquetStore", summaries: "list[SourceSummary]") -> list[dict[str, Any]]:
    return archive_quarantine.in_effect(store, [each.stream for each in summaries if each.source == QUARANTINE_SOURCE])


def _sources(summaries: "list[SourceSummary]", quarantined: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """What each source of samples holds, and how many of them are in quarantine; None: that cannot be read.

    The records of the quarantine are no source: their stream's other sources have the samples.
    """
    counts = None if quarantined is None else archive_quarantine.samples_by_source(quarantined)
    return [
        asdict(each) | {"in_quarantine": None if counts is None else counts[each.stream, each.source]}
        for each in summaries
        if each.source not in OVERLAY_SOURCES
    ]


def _print_table(sources: list[dict[str, Any]]) -> None:
    if not sources:
        print("the archive is empty")
        return
    heads = ("stream", "source", "files", "blocks", "samples", "in quarantine", "MB", "MB stored", "offsets", "lost")
    rows = [
        (
            each["stream"],
            each["source"],
            f"{each['files']:,}",
            f"{each['blocks']:,}",
            f"{each['samples']:,}",
            "?" if each["in_quarantine"] is None else f"{each['in_quarantine']:,}",
            f"{each['num_bytes'] / 1e6:,.1f}",
            f"{each['stored_bytes'] / 1e6:,.1f}",
            f"{each['first']}–{each['next'] - 1}",
            f"{each['lost']:,}",
        )
        for each in sources
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        print("  ".join([*names, *numbers]).rstrip())


def _print_damaged(summaries: "list[SourceSummary]") -> None:
    for each in summaries:
        if each.damaged:
            what = f"{counted(each.damaged, 'file')} cannot be read: `edged archive verify` says why"
            print(f"{each.stream}/{each.source}: {what}")


def _print_forgotten(summaries: "list[SourceSummary]") -> None:
    for each in summaries:
        if each.forgotten_bytes:
            size = f"{each.forgotten_bytes / 1e6:,.1f} MB"
            print(f"{each.stream}/{each.source}: forgotten before offset {each.first}; {size} of it not deleted yet")


def _stream(topology: Topology, name: str | None) -> Stream:
    """The stream called so; without a name the one trained on, or the only one."""
    trained = {job.stream for job in topology.jobs}
    if name is None and len(trained) == 1:
        [name] = trained
    found = [stream for stream in topology.streams if name in {None, stream.name}]
    if len(found) != 1:
        names = ", ".join(stream.name for stream in topology.streams)
        raise FormatError(f"no stream {name!r}; there are {names}" if name else f"which --stream? there are {names}")
    return found[0]


def _store(topology: Topology) -> "ParquetStore":
    from edged.app.objects import open_archive  # noqa: PLC0415

    return open_archive(topology)
