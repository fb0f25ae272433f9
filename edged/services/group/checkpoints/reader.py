"""What of a group's announced checkpoints is there to go on from, by their topic and by the group's log.

Covers putting pieces together, and which of those that are whole the log leads on from. Which of several offers counts
is domain.founding's subject, writing announcements' own.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edged.aio import run_in_worker
from edged.domain.group import records as exchange_records
from edged.domain.group import recovery, state_json
from edged.domain.group.records import Join
from edged.domain.group.recovery import LogPrefix, RecoveryOffer
from edged.domain.group.state import State
from edged.domain.training import checkpoint
from edged.domain.training.state import TrainState
from edged.errors import CheckpointCorrupt, FormatError, TopologyMismatch
from edged.log import logger
from edged.ports import Log, LogReader, Record, TopicPartition

CHUNK_BYTES = 512 * 1024
_SLOTS = 2
_SPARE_BYTES = 4 << 20
"""Of a checkpoint beside its arrays: header, history, the state of the log's fold."""

_MAX_SLOTS = 3
"""Of an optimizer, the outer step's among them."""

_POLL_S = 1.0
_QUIET_S = 5.0
"""Without a record for so long, nobody is writing a checkpoint at the moment."""

_RECORDS_PER_POLL = 4
_SLOT_NAMES = frozenset(str(slot) for slot in range(_SLOTS))


@dataclass(frozen=True, slots=True)
class GroupTopics:
    """Where a group's checkpoints are, `checkpoints`, and its log, `log`; whose job and who may be a member."""

    checkpoints: str
    log: str
    job: str
    edges: Collection[str]


@dataclass(frozen=True, slots=True)
class Head:
    """What makes a slot's pieces one checkpoint. `offer`: what it is offered as; None as a member's on its way.

    An offer's has a key of its founder's own: whose was taken must be known though others write over its pieces.
    """

    generation: int
    epoch: int
    parts: int
    sha256: str
    offer: RecoveryOffer | None = None

    @property
    def slot(self) -> int:
        """Where its pieces are."""
        return self.epoch % _SLOTS

    @property
    def key(self) -> bytes:
        """Of its record."""
        return f"offer/{self.offer.proposer}".encode() if self.offer else f"head/{self.slot}".encode()

    def encode(self) -> bytes:
        """As a record's value."""
        values = {"generation": self.generation, "epoch": self.epoch, "parts": self.parts, "sha256": self.sha256}
        return json.dumps(values | ({"place": self.offer.position} if self.offer else {})).encode()


class CheckpointReader:
    """The checkpoints of one topic, as far as it was read; used by one task.

    Those taken have weights like those of `like`; without it, as the parameter server reads them, only as many.
    """

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

    async def read_to(self, high: int) -> None:
        """Read the records before the offset `high`, however long they take: by some alone one decides wrongly."""
        while self._reader.position(self._checkpoints) < high:
            records = await self._reader.poll(max_records=1, timeout_s=_POLL_S)
            for record in records:
                self._slots.take(record)
            if not records:
                high = min(high, (await self._log.watermarks([self._checkpoints]))[self._checkpoints].high)

    async def read_on(self) -> None:
        """Read what comes, until nothing does, or for now nothing behind a checkpoint's last piece."""
        while records := await self._reader.poll(max_records=1, timeout_s=_QUIET_S):
            is_head = [self._slots.take(record) for record in records]
            if is_head[-1] and not self._reader.lag():
                return  # a group whose epochs are short would never be quiet

    async def best(self, at_least: int = 0) -> TrainState | None:
        """The newest from which the log can be folded on, with at least so many steps; None when there is none now.

        That is a member's whose place is in the log, or the offer that was taken. Waits for the log.
        """
        low, high = await self._bounds()
        taken = recovery.accepted(await self._openings(low, high))
        for head, blob in self._slots.newest_first():
            if head.offer is not None and head.offer != taken:
                continue
            state = None if blob is None else await self._decoded(blob)
            if state is not None and state.position.step >= at_least and recovery.can_resume(_place(state), low, high):
                return state
            if head.offer is not None:
                return None  # what is older is of another log
        return None

    async def joined_by(self, joining: Sequence[Join]) -> TrainState | None:
        """The offer that will be taken when these come next; None when there is none, or one was taken before."""
        openings = await self._openings(*await self._bounds())
        if recovery.accepted(openings) is not None:
            return None
        taken = recovery.accepted(openings, joining)
        for head, blob in self._slots.newest_first():
            if taken is not None and head.offer == taken and blob is not None:
                return await self._decoded(blob)
        return None

    async def taken(self) -> RecoveryOffer | None:
        """The offer that was taken, whether it can still be read or not."""
        return recovery.accepted(await self._openings(*await self._bounds()))

    async def offers(self) -> list[RecoveryOffer]:
        """Those that are whole and can still be taken."""
        openings = await self._openings(*await self._bounds())
        if recovery.accepted(openings) is not None:
            return []
        open_offers = {offer for offer, opening in openings.items() if not opening.is_over}
        return [head.offer for head, blob in self._slots.newest_first() if head.offer in open_offers and blob]

    async def newer(self, own: TrainState) -> TrainState:
        """The newest whole state, wherever its place is; `own` if none is newer."""
        newest = own
        for _, blob in self._slots.newest_first():
            state = None if blob is None else await self._decoded(blob)
            if state is not None and state.position.step > newest.position.step:
                newest = state
        return newest

    async def place_to_found(self) -> int | None:
        """Where a group that is founded now begins in the log; None while one is founded there already."""
        low, high = await self._bounds()
        is_founded = (await self._opening(low, high)).is_over or await self.taken() is not None
        return None if is_founded else high

    async def _bounds(self) -> tuple[int, int]:
        return (await self._log.watermarks([self._reads]))[self._reads]

    async def _openings(self, low: int, high: int) -> dict[RecoveryOffer, LogPrefix]:
        """Of all offers, torn ones too, whose place is in the log."""
        offers = [head.offer for head in self._slots.heads() if head.offer is not None]
        return {offer: await self._opening(offer.position, high) for offer in offers if low <= offer.position <= high}

    async def _opening(self, at: int, high: int) -> LogPrefix:
        opening = LogPrefix(at)
        async with self._log.reader({self._reads: at}) as reader:
            while reader.position(self._reads) < high and not opening.is_over:
                records = await reader.poll(max_records=_RECORDS_PER_POLL, timeout_s=_POLL_S)
                if not records:
                    high = min(high, (await self._bounds())[1])
                for record in records:
                    try:
                        opening.take(exchange_records.decode(record.value), record.offset)
                    except FormatError:
                        continue
        return opening

    async def _decoded(self, blob: bytes) -> TrainState | None:
        return await run_in_worker(partial(_decode, blob, self._topics, self._like))


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


def _check_edges(place: State, edges: frozenset[str]) -> None:
    """Raises FormatError for a state that could not come of a log in which only these are members."""
    if strangers := place.members.keys() - edges:
        raise FormatError(f"names {', '.join(sorted(strangers))}, no edge of the topology")


def _place(state: TrainState) -> int:
    return state_json.from_json(state.exchange).next_offset


class _Slots:
    """The newest record of each key, as far as it can be of a checkpoint of at most so many bytes."""

    def __init__(self, max_bytes: int, edges: Collection[str]) -> None:
        self._edges = frozenset(edges)
        self._max_parts = -(-max_bytes // CHUNK_BYTES)
        self._numbers = {str(part) for part in range(self._max_parts)}
        self._chunks: dict[tuple[int, int], bytes] = {}
        self._heads: dict[str, Head] = {}  # in the order in which they were written
        self._digests: dict[tuple[int, int], str] = {}

    def take(self, record: Record) -> bool:
        """The next record; whether it is a head."""
        key = (record.key or b"").decode(errors="replace")
        kind, _, name = key.partition("/")
        if kind in _SLOT_NAMES and name in self._numbers and len(record.value) <= CHUNK_BYTES:
            self._chunks[int(kind), int(name)] = record.value
            self._digests.clear()
        elif (kind == "head" and name in _SLOT_NAMES) or (kind == "offer" and name in self._edges):
            head = _head(record.value, founder=name if kind == "offer" else "")
            if head is not None and head.key == record.key:
                self._heads.pop(key, None)
                self._heads[key] = head
                return True
        return False

    def newest_first(self) -> Iterator[tuple[Head, bytes | None]]:
        """Each head and its blob, the last written first; None for a blob that is not whole."""
        for head in self.heads():
            yield head, self._blob(head)

    def heads(self) -> list[Head]:
        """All, the last written first."""
        return list(reversed(self._heads.values()))

    def _blob(self, head: Head) -> bytes | None:
        """Many heads may be of the same pieces: offers stay, and of a large model each digest takes a while."""
        parts = min(head.parts, self._max_parts)
        chunks = [self._chunks.get((head.slot, part), b"") for part in range(parts)]
        if (head.slot, parts) not in self._digests:
            sha = hashlib.sha256()
            for chunk in chunks:
                sha.update(chunk)
            self._digests[head.slot, parts] = sha.hexdigest()
        return b"".join(chunks) if self._digests[head.slot, parts] == head.sha256 else None


def _head(value: bytes, founder: str) -> Head | None:
    try:
        values: Mapping[str, Any] = json.loads(value)
        generation, epoch, parts = values["generation"], values["epoch"], values["parts"]
        place = values["place"] if founder else 0
        sha256 = values["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sizes = (generation, epoch, parts, place)
    if not (all(type(size) is int and 0 <= size < 1 << 62 for size in sizes) and isinstance(sha256, str)):
        return None
    return Head(generation, epoch, parts, sha256, RecoveryOffer(founder, place, generation) if founder else None)
