"""Reads a group's shared checkpoints and picks the newest from which the group's log can be folded on.

Covers joining the pieces of a checkpoint, and which complete ones the log continues from. See also:
`checkpoints.publisher` for their keys, `domain.group.recovery` for which of several offers is accepted.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from edged.aio import run_in_worker
from edged.domain.group import records as group_records
from edged.domain.group import recovery, state_json
from edged.domain.group.records import Join
from edged.domain.group.recovery import LogPrefix, RecoveryOffer
from edged.domain.group.state import State
from edged.domain.training import checkpoint
from edged.domain.training.state import TrainState
from edged.errors import CheckpointCorrupt, FormatError, TopologyMismatch
from edged.log import logger
from edged.ports import Log, LogReader, Record, TopicPartition, Watermarks
from edged.reading import read_to_end

CHUNK_BYTES = 512 * 1024
_SLOTS = 2
_SPARE_BYTES = 4 << 20
"""Of a checkpoint in addition to its arrays: header, history, the state of the log's fold."""

_MAX_SLOTS = 3
"""Of an optimizer, the outer step's among them."""

_QUIET_S = 5.0
"""After this long without a record, nobody is writing a checkpoint at the moment."""

_RECORDS_PER_POLL = 4
_SLOT_NAMES = frozenset(str(slot) for slot in range(_SLOTS))


@dataclass(frozen=True, slots=True)
class GroupTopics:
    """A group's topics: its checkpoints', `checkpoints`, and its log, `log`; its job's digest and possible members."""

    checkpoints: str
    log: str
    job: str
    edges: Collection[str]


@dataclass(frozen=True, slots=True)
class Head:
    """What makes a slot's pieces one checkpoint. `offer`: None for the checkpoint of a group that trains.

    An offer has a key of its proposer's own: which one was accepted must be known even if others overwrite its pieces.
    """

    generation: int
    epoch: int
    parts: int
    sha256: str
    offer: RecoveryOffer | None = None

    @property
    def slot(self) -> int:
        """The slot of its pieces."""
        return self.epoch % _SLOTS

    @property
    def key(self) -> bytes:
        """The key of its record."""
        return f"offer/{self.offer.proposer}".encode() if self.offer else f"head/{self.slot}".encode()

    def encode(self) -> bytes:
        """The value of its record."""
        values = {"generation": self.generation, "epoch": self.epoch, "parts": self.parts, "sha256": self.sha256}
        return json.dumps(values | ({"place": self.offer.position} if self.offer else {})).encode()


class Offers(NamedTuple):
    """`accepted`: the offer that all resume from, whether it can still be read or not; None while there is none.

    `pending`: complete ones that can still be accepted.
    """

    accepted: RecoveryOffer | None
    pending: Sequence[RecoveryOffer]


class CheckpointReader:
    """The checkpoints of one topic, as far as it was read; made by `read_checkpoints`, used by one task."""

    def __init__(
        self, log: Log, reader: LogReader, topics: GroupTopics, like: TrainState | None, num_parameters: int
    ) -> None:
        self._log = log
        self._reader = reader
        self._topics = topics
        self._reads = TopicPartition(topics.log)
        self._checkpoints = TopicPartition(topics.checkpoints)
        self._like = like
        num_slots = _MAX_SLOTS if like is None else len(like.slots)
        self._slots = _Slots(2 * 4 * num_parameters * (1 + num_slots) + _SPARE_BYTES, topics.edges)  # with the fallback

    async def read_to_end(self) -> None:
        """Read all that is in the topic now, however long it takes: some of it alone would mislead."""
        reading = read_to_end(self._log, self._reader, self._checkpoints, max_records=1)
        async with aclosing(reading):
            async for records in reading:
                for record in records:
                    self._slots.take(record)

    async def read_on(self) -> None:
        """Read until no record comes for a while, or a checkpoint's last piece is the last record for now."""
        while records := await self._reader.poll(max_records=1, timeout_s=_QUIET_S):
            is_head = [self._slots.take(record) for record in records]
            if is_head[-1] and not self._reader.lag():
                return  # a group whose epochs are short would never be quiet

    async def best(self, min_step: int = 0) -> TrainState | None:
        """The newest of `min_step` or later from which the log can be folded; None when there is none now.

        That is a training group's checkpoint whose offset is in the log, or the accepted offer. Waits for the log.
        """
        low, _stable, high = await self._bounds()
        accepted = recovery.accepted(await self._prefixes(low, high))
        for head, blob in self._slots.newest_first():
            if head.offer is not None and head.offer != accepted:
                continue
            state = None if blob is None else await self._decoded(blob)
            if state is not None and state.position.step >= min_step and recovery.can_resume(_offset(state), low, high):
                return state
            if head.offer is not None:
                return None  # older ones are of another log
        return None

    async def joined_by(self, joins: Sequence[Join]) -> TrainState | None:
        """The offer that is accepted by these Joins if they come next; None when there is none, or was one before."""
        prefixes = await self._prefixes_now()
        if recovery.accepted(prefixes) is not None:
            return None
        accepted = recovery.accepted(prefixes, joins)
        for head, blob in self._slots.newest_first():
            if accepted is not None and head.offer == accepted and blob is not None:
                return await self._decoded(blob)
        return None

    async def offers(self) -> Offers:
        """The offers as they stand now. Waits for the log."""
        prefixes = await self._prefixes_now()
        if (accepted := recovery.accepted(prefixes)) is not None:
            return Offers(accepted, ())
        can_be_accepted = {offer for offer, prefix in prefixes.items() if not prefix.is_over}
        pending = [head.offer for head, blob in self._slots.newest_first() if head.offer in can_be_accepted and blob]
        return Offers(None, pending)

    async def newer(self, own: TrainState) -> TrainState:
        """The newest complete state, whatever its log offset is; `own` if none is newer."""
        newest = own
        for _, blob in self._slots.newest_first():
            state = None if blob is None else await self._decoded(blob)
            if state is not None and state.position.step > newest.position.step:
                newest = state
        return newest

    async def offset_to_restart(self) -> int | None:
        """The log offset for a new offer; None while the group already trains or resumes there."""
        low, _stable, high = await self._bounds()
        is_in_use = (await self._prefix(low)).is_over or (await self.offers()).accepted is not None
        return None if is_in_use else high

    async def _bounds(self) -> Watermarks:
        return (await self._log.watermarks([self._reads]))[self._reads]

    async def _prefixes_now(self) -> dict[RecoveryOffer, LogPrefix]:
        low, _stable, high = await self._bounds()
        return await self._prefixes(low, high)

    async def _prefixes(self, low: int, high: int) -> dict[RecoveryOffer, LogPrefix]:
        """The log after each offer whose position is in it, also for incomplete offers."""
        offers = [head.offer for head in self._slots.heads() if head.offer is not None]
        return {offer: await self._prefix(offer.position) for offer in offers if low <= offer.position <= high}

    async def _prefix(self, start: int) -> LogPrefix:
        prefix = LogPrefix(start)
        async with (
            self._log.reader({self._reads: start}) as reader,
            aclosing(read_to_end(self._log, reader, self._reads, max_records=_RECORDS_PER_POLL)) as reading,
        ):
            async for records in reading:
                for record in records:
                    with suppress(FormatError):
                        prefix.take(group_records.decode(record.value), record.offset)
                if prefix.is_over:
                    break
        return prefix

    async def _decoded(self, blob: bytes) -> TrainState | None:
        return await run_in_worker(partial(_decode, blob, self._topics, self._like))


@asynccontextmanager
async def read_checkpoints(
    log: Log, topics: GroupTopics, num_parameters: int, *, like: TrainState | None = None
) -> AsyncIterator[CheckpointReader]:
    """The checkpoints that are in the topic now, and for `read_on` those that follow. Waits for the log.

    Accepts those whose weights have the shapes of `like`; without it, as for a parameter server, their number alone.
    """
    partition = TopicPartition(topics.checkpoints)
    low = (await log.watermarks([partition]))[partition].low
    async with log.reader({partition: low}) as reader:
        checkpoints = CheckpointReader(log, reader, topics, like, num_parameters)
        await checkpoints.read_to_end()
        yield checkpoints


def _decode(blob: bytes, topics: GroupTopics, like: TrainState | None) -> TrainState | None:
    try:
        state = checkpoint.decode(blob, job=topics.job)
        _check_edges(state_json.from_json(state.exchange), frozenset(topics.edges))
    except (CheckpointCorrupt, TopologyMismatch, FormatError) as error:
        logger().warning("exchange.rejected", topic=topics.checkpoints, offset=0, reason=str(error), suppressed=0)
        return None
    return state if state.is_finite() and (like is None or _is_alike(state, like)) else None


def _is_alike(state: TrainState, like: TrainState) -> bool:
    shapes = {name: param.shape for name, param in state.params.items()}
    return (
        shapes == {name: param.shape for name, param in like.params.items()} and state.slots.keys() == like.slots.keys()
    )


def _check_edges(group: State, edges: frozenset[str]) -> None:
    """Raises FormatError for a state that no log can lead to in which only these edges are members."""
    if strangers := group.members.keys() - edges:
        raise FormatError(f"names {', '.join(sorted(strangers))}, no edge of the topology")


def _offset(state: TrainState) -> int:
    return state_json.from_json(state.exchange).next_offset


class _Slots:
    """The newest record of each key, as far as it can belong to a checkpoint of at most `max_bytes`."""

    def __init__(self, max_bytes: int, edges: Collection[str]) -> None:
        self._edges = frozenset(edges)
        self._max_parts = -(-max_bytes // CHUNK_BYTES)
        self._numbers = {str(part) for part in range(self._max_parts)}
        self._chunks: dict[tuple[int, int], bytes] = {}
        self._heads: dict[str, Head] = {}  # in the order in which they were written
        self._digests: dict[tuple[int, int], str] = {}

    def take(self, record: Record) -> bool:
        """Keep the next record; returns whether it is a head."""
        key = (record.key or b"").decode(errors="replace")
        kind, _, name = key.partition("/")
        if kind in _SLOT_NAMES and name in self._numbers and len(record.value) <= CHUNK_BYTES:
            self._chunks[int(kind), int(name)] = record.value
            self._digests.clear()
        elif (kind == "head" and name in _SLOT_NAMES) or (kind == "offer" and name in self._edges):
            head = _head(record.value, proposer=name if kind == "offer" else "")
            if head is not None and head.key == record.key:
                self._heads.pop(key, None)
                self._heads[key] = head
                return True
        return False

    def newest_first(self) -> Iterator[tuple[Head, bytes | None]]:
        """Each head and its blob, the last written first; None for an incomplete blob."""
        for head in self.heads():
            yield head, self._blob(head)

    def heads(self) -> list[Head]:
        """All heads, the last written first."""
        return list(reversed(self._heads.values()))

    def _blob(self, head: Head) -> bytes | None:
        """Keeps digests: several heads may share pieces, for offers stay, and a large model's digest takes a while."""
        parts = min(head.parts, self._max_parts)
        chunks = [self._chunks.get((head.slot, part), b"") for part in range(parts)]
        if (head.slot, parts) not in self._digests:
            sha = hashlib.sha256()
            for chunk in chunks:
                sha.update(chunk)
            self._digests[head.slot, parts] = sha.hexdigest()
        return b"".join(chunks) if self._digests[head.slot, parts] == head.sha256 else None


def _head(value: bytes, proposer: str) -> Head | None:
    try:
        values: Mapping[str, Any] = json.loads(value)
        generation, epoch, parts = values["generation"], values["epoch"], values["parts"]
        position = values["place"] if proposer else 0
        sha256 = values["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sizes = (generation, epoch, parts, position)
    if not (all(type(size) is int and 0 <= size < 1 << 62 for size in sizes) and isinstance(sha256, str)):
        return None
    return Head(generation, epoch, parts, sha256, RecoveryOffer(proposer, position, generation) if proposer else None)
