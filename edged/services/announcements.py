"""A group's checkpoints, from member to member, through its compacted topic.

Covers writing one in pieces and finding the newest whole one. A checkpoint's pieces have the keys `<slot>/<part>`, its
head, written last, `head/<slot>`; the slots are used in turn, so that one is whole while the other is being written.
Who announces and when is `group_train`'s subject, what a checkpoint holds domain.checkpoint's.
"""

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from edged.aio import run_in_worker
from edged.domain import checkpoint, exchange_records, gradient_log
from edged.domain.checkpoint import TrainState
from edged.domain.exchange_records import Part, Update
from edged.domain.gradient_log import State
from edged.errors import CheckpointCorrupt, FormatError, TopologyMismatch
from edged.log import logger
from edged.ports import Log, LogReader, Message, Record, TopicPartition

_CHUNK_BYTES = 512 * 1024
_SLOTS = 2
_SPARE_BYTES = 4 << 20
"""Of a checkpoint beside its arrays: header, history, the state of the log's fold."""

_POLL_S = 1.0
_WAIT_S = 5.0
_RECORDS_A_POLL = 4


@dataclass(frozen=True, slots=True)
class _Head:
    """What makes a slot's pieces one checkpoint."""

    generation: int
    epoch: int
    parts: int
    sha256: str


class Announcements:
    """The announced checkpoints of one job. `topic`: where they are; `reads`: the topic of the group's log.

    `edges`: who may be a member.
    """

    def __init__(self, log: Log, topic: str, reads: str, job: str, edges: Collection[str]) -> None:
        self._log = log
        self._topic = topic
        self._reads = TopicPartition(reads)
        self._job = job
        self._edges = frozenset(edges)

    async def announce(self, state: TrainState) -> None:
        """Write `state`, which the caller keeps still meanwhile. Cancelled, the slot is not whole; the other one is."""
        begin = time.perf_counter()
        blob = await run_in_worker(checkpoint.encode, state)
        slot = state.position.epoch % _SLOTS
        chunks = [blob[at : at + _CHUNK_BYTES] for at in range(0, len(blob), _CHUNK_BYTES)]
        head = {
            "generation": state.generation,
            "epoch": state.position.epoch,
            "parts": len(chunks),
            "sha256": hashlib.sha256(blob).hexdigest(),
        }
        for i, chunk in enumerate(chunks):
            await self._log.append([Message(self._topic, chunk, f"{slot}/{i}".encode())])
        await self._log.append([Message(self._topic, json.dumps(head).encode(), f"head/{slot}".encode())])
        logger().info(
            "exchange.announced",
            generation=state.generation,
            epoch=state.position.epoch,
            parts=len(chunks),
            bytes=len(blob),
            ms=round((time.perf_counter() - begin) * 1e3, 1),
        )

    async def newest(self, like: TrainState, at_least: int = 0) -> TrainState | None:
        """The newest whole checkpoint from which the log can be folded on; None when there is none now.

        That is one whose place is in the log; else the newest of all, if nothing of any step behind it can have been
        lost: its place is then where the log begins. It has weights like those of `like`, and at least `at_least`
        steps. Waits for the log.
        """
        topic = TopicPartition(self._topic)
        low, high = (await self._log.watermarks([topic]))[topic]
        slots = _Slots(like)
        async with self._log.reader({topic: low}) as reader:
            while low < high:
                low = await self._read(reader, slots, low, high)
        return await self._best(slots, like, at_least)

    async def wait(self, like: TrainState, at_least: int) -> TrainState:
        """As `newest`, but waits until there is one."""
        topic = TopicPartition(self._topic)
        low, _ = (await self._log.watermarks([topic]))[topic]
        slots = _Slots(like)
        async with self._log.reader({topic: low}) as reader:
            while True:
                records = await reader.poll(max_records=1, timeout_s=_WAIT_S)
                for record in records:
                    slots.take(record)
                if not records and (found := await self._best(slots, like, at_least)) is not None:
                    return found

    async def _read(self, reader: LogReader, slots: "_Slots", at: int, high: int) -> int:
        records = await reader.poll(max_records=1, timeout_s=_POLL_S)
        for record in records:
            slots.take(record)
        if records:
            return records[-1].offset + 1
        # What compaction removed at the very end leaves no record to come.
        return high if reader.lag() == 0 else at

    async def _best(self, slots: "_Slots", like: TrainState, at_least: int) -> TrainState | None:
        low, high = (await self._log.watermarks([self._reads]))[self._reads]
        newest: TrainState | None = None
        for blob in slots.whole():
            state = await run_in_worker(partial(self._decoded, blob, like))
            if state is None or state.position.step < at_least:
                continue
            if low <= gradient_log.from_json(state.exchange).next_offset <= high:
                return self._adopted(state)
            newest = newest or state
        if newest is None or await self._first_step(low, high) > newest.position.step:
            return None
        place = replace(gradient_log.from_json(newest.exchange), next_offset=low)
        newest.exchange = gradient_log.to_json(place)
        return self._adopted(newest)

    @staticmethod
    def _adopted(state: TrainState) -> TrainState:
        offset = gradient_log.from_json(state.exchange).next_offset
        logger().info("exchange.adopted", generation=state.generation, epoch=state.position.epoch, offset=offset)
        return state

    async def _first_step(self, at: int, high: int) -> int:
        """The first step that the log, from its beginning `at` on, has anything of; -1 when of none.

        A group that was away for longer than the log is kept has lost no step that its newest checkpoint has not: all
        members go on from that one, where the log begins now.
        """
        async with self._log.reader({self._reads: at}) as reader:
            while at < high:
                records = await reader.poll(max_records=_RECORDS_A_POLL, timeout_s=_POLL_S)
                if not records and not reader.lag():
                    break
                for record in records:
                    at = record.offset + 1
                    try:
                        decoded = exchange_records.decode(record.value)
                    except FormatError:
                        continue
                    if isinstance(decoded, Part | Update):
                        return decoded.step
        return -1

    def _decoded(self, blob: bytes, like: TrainState) -> TrainState | None:
        try:
            state = checkpoint.decode(blob, job=self._job)
            _check_edges(gradient_log.from_json(state.exchange), self._edges)
        except (CheckpointCorrupt, TopologyMismatch, FormatError) as error:
            logger().warning("exchange.rejected", topic=self._topic, offset=0, reason=str(error), suppressed=0)
            return None
        shapes = {name: param.shape for name, param in state.params.items()}
        is_alike = shapes == {name: param.shape for name, param in like.params.items()}
        return state if is_alike and state.slots.keys() == like.slots.keys() and state.is_finite() else None


def _check_edges(place: State, edges: frozenset[str]) -> None:
    """Raises FormatError for a state that could not come of a log in which only these are members."""
    members = place.members.keys() | place.tested.keys() | (place.begin.members.keys() if place.begin else set())
    if strangers := members - edges:
        raise FormatError(f"names {', '.join(sorted(strangers))}, no edge of the topology")


class _Slots:
    """The newest record of each key, as far as it can be of a checkpoint like `like`."""

    def __init__(self, like: TrainState) -> None:
        num_bytes = sum(param.nbytes for param in like.params.values()) * (1 + len(like.slots)) + _SPARE_BYTES
        self._most_parts = -(-num_bytes // _CHUNK_BYTES)
        self._numbers = {str(part) for part in range(self._most_parts)}
        self._chunks: dict[tuple[int, int], bytes] = {}
        self._heads: dict[int, _Head] = {}

    def take(self, record: Record) -> None:
        kind, _, number = (record.key or b"").decode(errors="replace").partition("/")
        if kind == "head" and number in {"0", "1"} and (head := _head(record.value)) is not None:
            self._heads[int(number)] = head
        elif kind in {"0", "1"} and number in self._numbers and len(record.value) <= _CHUNK_BYTES:
            self._chunks[int(kind), int(number)] = record.value

    def whole(self) -> list[bytes]:
        """The blobs of the slots that are whole, the newest first."""
        blobs: list[bytes] = []
        for slot, head in sorted(self._heads.items(), key=lambda each: each[1].generation, reverse=True):
            chunks = [self._chunks.get((slot, part)) for part in range(min(head.parts, self._most_parts))]
            blob = b"".join(chunk for chunk in chunks if chunk is not None)
            if hashlib.sha256(blob).hexdigest() == head.sha256:
                blobs.append(blob)
        return blobs


def _head(value: bytes) -> _Head | None:
    try:
        values: Mapping[str, Any] = json.loads(value)
        head = _Head(values["generation"], values["epoch"], values["parts"], values["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_sane = all(type(n) is int and 0 <= n < 1 << 40 for n in (head.generation, head.epoch, head.parts))
    return head if is_sane and isinstance(head.sha256, str) else None
