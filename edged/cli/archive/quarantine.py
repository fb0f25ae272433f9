"""`edged archive quarantine` and `release`, and what `ls` and `verify` show of the quarantine."""

import argparse
import getpass
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edged.access import user
from edged.adapters.host.name import host_name
from edged.domain.archive import quarantine
from edged.domain.archive.quarantine import Action, QuarantineRecord
from edged.domain.counted import counted
from edged.domain.samples import address as addresses
from edged.domain.samples.address import ArchivedAddress
from edged.domain.topology import Topology
from edged.errors import FormatError

if TYPE_CHECKING:  # as in `archive`
    from edged.ports import ArchiveStore

_MAX_SHOWN = 50
_DONE = {"quarantine": "out of training", "release": "back in training"}
_AWAITED = {"quarantine": "passes it should it be held up by it", "release": "waits should it be held up by it"}
_ALREADY = {"quarantine": "in quarantine already", "release": "not in quarantine"}


def add_addresses(parser: argparse.ArgumentParser) -> None:
    """Add the addresses, as log lines and commands name samples."""
    parser.add_argument(
        "addresses",
        nargs="+",
        metavar="ADDRESS",
        help="STREAM/SOURCE/OFFSET/ROW, a whole block without ROW, or STREAM/@DEVICE/PARTITION/OFFSET",
    )


def change(topology: Topology, store: "ArchiveStore", action: Action, texts: list[str]) -> int:
    """Quarantine or release what the addresses name, and say what came of each. Raises FormatError, StorageError."""
    from edged.services.archive import quarantine as records  # noqa: PLC0415

    wanted = [addresses.parse(text) for text in texts]
    streams = [stream.name for stream in topology.streams]
    if unknown := [str(each) for each in wanted if each.stream not in streams]:
        raise FormatError(f"{unknown[0]}: no stream of the topology, which has {', '.join(streams)}")
    by = f"{_person()}@{host_name()}"
    edges = [edge.name for edge in topology.edges]
    for each in list(records.apply(store, action, wanted, by=by, when_ms=int(time.time() * 1000), edges=edges)):
        done = f"{counted(each.num_samples, 'sample')} {_DONE[action]} from the next epoch on"
        if not each.is_archived:
            done = f"not archived yet; the archive node {_AWAITED[action]}, within a minute if it waits there now"
        print(f"{each.address}: {done if each.is_new else _ALREADY[action]}")
    return 0


def _person() -> str:
    """Who is logged in, or whose rights this process has."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return user()


def in_effect(store: "ArchiveStore", streams: list[str]) -> list[dict[str, Any]]:
    """What is in quarantine now: addresses with the number of samples, and who said so when."""
    return [entry for stream in streams for entry in _of_stream(store, stream)]


def samples_by_source(entries: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """The number of samples in quarantine of each stream and source."""
    counts = Counter[tuple[str, str]]()
    for entry in entries:
        stream, source, *_ = entry["address"].split("/")
        counts[stream, source] += entry["samples"]
    return counts


def print_quarantine(entries: list[dict[str, Any]]) -> None:
    """One line for each address, up to _MAX_SHOWN."""
    for entry in entries[:_MAX_SHOWN]:
        what = counted(entry["samples"], "sample") if entry["archived"] else "not archived yet"
        print(f"in quarantine: {entry['address']} ({what}), by {entry['by']}, {entry['since']}")
    if len(entries) > _MAX_SHOWN:
        print(f"in quarantine: {counted(len(entries) - _MAX_SHOWN, 'more address')}, see --json")


def _of_stream(store: "ArchiveStore", stream: str) -> list[dict[str, Any]]:
    snapshot = store.snapshot(stream)
    records = store.quarantine_records(stream)
    newest = {(record.ref, record.row): record for record in records if record.action == "quarantine"}
    entries: list[dict[str, Any]] = []
    for block, first, end in snapshot.quarantined.tolist():
        ref, is_whole = snapshot.ref(block), end - first == int(snapshot.rows[block])
        for row in [None] if is_whole else range(first, end):
            record = newest.get((ref, row)) or newest.get((ref, None)) or newest[ref, first]
            entries.append(_entry(ArchivedAddress(stream, *ref, row), record, end - first if is_whole else 1))
    to_come = (ref for ref in quarantine.in_effect(records) if ref.offset >= snapshot.ends.get(ref.source, 0))
    return entries + [
        _entry(ArchivedAddress(stream, *ref), newest[ref, None], 0, is_archived=False)
        for ref in to_come
        if (ref, None) in newest
    ]


def _entry(
    address: ArchivedAddress, record: QuarantineRecord, num_samples: int, *, is_archived: bool = True
) -> dict[str, Any]:
    since = datetime.fromtimestamp(record.when_ms / 1000, UTC).isoformat(timespec="seconds")
    return {
        "address": str(address), "samples": num_samples, "archived": is_archived, "by": record.by, "since": since,
    }  # fmt: skip
