"""Takes samples of the archive out of training, and brings them back: appends records to the stream's quarantine.

Covers which block or row an address names, and what would change nothing. In effect from the next snapshot on: a
running epoch keeps its plan. See also: `domain.archive.quarantine` (the records).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from edged.domain.archive import quarantine
from edged.domain.archive.quarantine import Action, Mask, QuarantineRecord
from edged.domain.archive.snapshot import QUARANTINE_SOURCE, BlockRef, Snapshot
from edged.domain.samples.address import ArchivedAddress, DeviceAddress, SampleAddress
from edged.domain.samples.pack import MAX_SAMPLES
from edged.errors import ArchiveConflict, FormatError
from edged.ports import ArchiveStore

_MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Change:
    """What an address meant: `num_samples` of the archive whose state has changed.

    `is_new`: whether anything has, also of a block that is not archived yet (`is_archived`).
    """

    address: ArchivedAddress
    num_samples: int
    is_new: bool
    is_archived: bool = True


def apply(
    store: ArchiveStore,
    action: Action,
    addresses: Sequence[SampleAddress],
    *,
    by: str,
    when_ms: int,
    edges: Collection[str] = (),
) -> Iterator[Change]:
    """Quarantine or release these samples and blocks: those of one stream durably together, or not at all.

    `edges`: whose packs are archived. A whole block that is still to come from one of them may be named, too: so a
    record that holds up its source is passed.

    Raises FormatError, before anything is written, for addresses that the archive does not have; ArchiveConflict when
    somebody else does the same at the same time.
    """
    by_stream = {
        stream: list(group)
        for stream, group in groupby(sorted(addresses, key=lambda each: each.stream), key=lambda each: each.stream)
    }
    snapshots = {stream: store.snapshot(stream) for stream in by_stream}
    located = {stream: _located(store, snapshots[stream], group, edges) for stream, group in by_stream.items()}
    for stream, group in located.items():
        yield from _append(store, stream, snapshots[stream], action, group, by, when_ms)


def _located(
    store: ArchiveStore, snapshot: Snapshot, addresses: Sequence[SampleAddress], edges: Collection[str]
) -> list[ArchivedAddress]:
    """The addresses in the archive's own form, each once."""
    found: list[ArchivedAddress] = []
    unknown: list[str] = []
    for address in addresses:
        place = _by_device(store, address) if isinstance(address, DeviceAddress) else address
        if place is None or not (_is_archived(snapshot, place) or _is_to_come(snapshot, place, edges)):
            unknown.append(str(address))
        elif place not in found:
            found.append(place)
    if unknown:
        more = f" and {len(unknown) - _MAX_NAMED} more" if len(unknown) > _MAX_NAMED else ""
        raise FormatError(f"the archive does not hold {', '.join(unknown[:_MAX_NAMED])}{more}; nothing was changed")
    return found


def _is_archived(snapshot: Snapshot, place: ArchivedAddress) -> bool:
    block = snapshot.block_of(BlockRef(place.source, place.offset))
    return block is not None and (place.row is None or place.row < int(snapshot.rows[block]))


def _is_to_come(snapshot: Snapshot, place: ArchivedAddress, edges: Collection[str]) -> bool:
    """Of what is not archived yet rows are not known: the archive leaves out what no border takes."""
    return place.row is None and place.source in edges and place.offset >= snapshot.ends.get(place.source, 0)


def _by_device(store: ArchiveStore, address: DeviceAddress) -> ArchivedAddress | None:
    places = [ArchivedAddress(address.stream, *each) for each in store.find(*address)]
    if len(places) > 1:
        raise FormatError(f"{address} is in the archive {len(places)} times; name one: {', '.join(map(str, places))}")
    return places[0] if places else None


def _append(
    store: ArchiveStore,
    stream: str,
    snapshot: Snapshot,
    action: Action,
    addresses: Sequence[ArchivedAddress],
    by: str,
    when_ms: int,
) -> Iterator[Change]:
    changes = _changes(snapshot, store.quarantine_records(stream), action, addresses)
    records = [
        QuarantineRecord(action, BlockRef(each.address.source, each.address.offset), each.address.row, by, when_ms)
        for each in changes
        if each.is_new
    ]
    if records:
        store.remove_leftovers(stream, QUARANTINE_SOURCE)
        end = snapshot.ends.get(QUARANTINE_SOURCE, 0)
        cuts = range(0, len(records), MAX_SAMPLES)
        packs = [quarantine.to_pack(stream, records[cut : cut + MAX_SAMPLES]) for cut in cuts]
        if store.ends(stream).get(QUARANTINE_SOURCE, 0) != end:
            raise _conflict(stream)
        store.append(stream, QUARANTINE_SOURCE, [(end + number, pack) for number, pack in enumerate(packs)])
        _check_own(store, stream, end, records)
    yield from changes


def _changes(
    snapshot: Snapshot, records: Sequence[QuarantineRecord], action: Action, addresses: Sequence[ArchivedAddress]
) -> list[Change]:
    wanted = action == "quarantine"
    masks: dict[int, Mask] = {}
    changes: list[Change] = []
    for address in addresses:
        ref = BlockRef(address.source, address.offset)
        block = snapshot.block_of(ref)
        if block is None:
            is_new = quarantine.is_whole_block(records, ref) != wanted
            changes.append(Change(address, 0, is_new, is_archived=False))
            continue
        mask = masks.setdefault(block, snapshot.is_quarantined(block))
        rows = slice(None) if address.row is None else slice(address.row, address.row + 1)
        num_samples = int((mask[rows] != wanted).sum())
        changes.append(Change(address, num_samples, num_samples > 0))
        mask[rows] = wanted
    return changes


def _check_own(store: ArchiveStore, stream: str, end: int, records: Sequence[QuarantineRecord]) -> None:
    """Whoever appended the same block in the same moment has replaced this one."""
    before = len(store.quarantine_records(stream, end))
    if store.quarantine_records(stream)[before : before + len(records)] != list(records):
        raise _conflict(stream)


def _conflict(stream: str) -> ArchiveConflict:
    return ArchiveConflict(f"somebody else has changed the quarantine of {stream} in the same moment; run it again")
