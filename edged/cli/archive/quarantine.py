"""`edged archive quarantine` and `release`, and what `ls` and `verify` show of the quarantine."""

import argparse
import getpass
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edged.domain.archive.quarantine import Action, QuarantineRecord
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples import address as addresses
from edged.domain.samples.address import ArchivedAddress
from edged.domain.topology import Topology
from edged.errors import FormatError

if TYPE_CHECKING:  # as in `archive`
    from edged.ports import ArchiveStore

_MAX_SHOWN = 50
_DONE = {"quarantine": "out of training", "release": "back in training"}
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
    from edged.services.archive import quarantine  # noqa: PLC0415

    wanted = [addresses.parse(text) for text in texts]
    streams = [stream.name for stream in topology.streams]
    if unknown := [str(each) for each in wanted if each.stream not in streams]:
        raise FormatError(f"{unknown[0]}: no stream of the topology, which has {', '.join(streams)}")
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    for each in list(quarantine.apply(store, action, wanted, by=by, when_ms=int(time.time() * 1000))):
        done = f"{_counted(each.num_samples)} {_DONE[action]} from the next epoch on"
        print(f"{each.address}: {done if each.num_samples else _ALREADY[action]}")
    return 0


def in_effect(store: "ArchiveStore", streams: list[str]) -> list[dict[str, Any]]:
    """What is in quarantine now: addresses with the number of samples, and who said so when."""
    return [entry for stream in streams for entry in _of_stream(store, stream)]


def print_quarantine(entries: list[dict[str, Any]]) -> None:
    """One line for each address, up to _MAX_SHOWN."""
    for entry in entries[:_MAX_SHOWN]:
        print(f"in quarantine: {entry['address']} ({_counted(entry['samples'])}), by {entry['by']}, {entry['since']}")
    if len(entries) > _MAX_SHOWN:
        print(f"in quarantine: {len(entries) - _MAX_SHOWN} more addresses, see --json")


def _of_stream(store: "ArchiveStore", stream: str) -> list[dict[str, Any]]:
    snapshot = store.snapshot(stream)
    newest: dict[tuple[BlockRef, int | None], QuarantineRecord] = {}
    for record in store.quarantine_records(stream):
        if record.action == "quarantine":
            newest[record.ref, record.row] = record
    entries: list[dict[str, Any]] = []
    for block, first, end in snapshot.quarantined.tolist():
        ref, is_whole = snapshot.ref(block), end - first == int(snapshot.rows[block])
        for row in [None] if is_whole else range(first, end):
            record = newest.get((ref, row)) or newest.get((ref, None)) or newest[ref, first]
            entries.append(
                {
                    "address": str(ArchivedAddress(stream, *ref, row)),
                    "samples": end - first if is_whole else 1,
                    "by": record.by,
                    "since": datetime.fromtimestamp(record.when_ms / 1000, UTC).isoformat(timespec="seconds"),
                }
            )
    return entries


def _counted(num_samples: int) -> str:
    return "1 sample" if num_samples == 1 else f"{num_samples:,} samples"
