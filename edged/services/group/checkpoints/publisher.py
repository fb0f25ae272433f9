"""A group's checkpoints, from member to member, through its compacted topic.

Covers writing one in pieces, and reading what is there. A checkpoint's pieces have the keys `<slot>/<part>`, its head,
written last, `head/<slot>` or, if it is offered, `offer/<edge>`; the slots are used in turn, so that one is whole while
the other is being written. Which of them a member can go on from is `announced`'s subject, who announces and when
`following`'s, who offers `refounding`'s, what a checkpoint holds domain.checkpoint's.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from edged.aio import run_in_worker
from edged.domain.group import state_json
from edged.domain.group.records import Join
from edged.domain.group.recovery import RecoveryOffer
from edged.domain.group.state import State
from edged.domain.nn import param_vector
from edged.domain.training import checkpoint
from edged.domain.training.state import TrainState
from edged.log import logger
from edged.ports import Log, Message, TopicPartition
from edged.services.group.checkpoints.reader import CHUNK_BYTES, CheckpointReader, GroupTopics, Head


class CheckpointPublisher:
    """The announced checkpoints of one job."""

    def __init__(self, log: Log, topics: GroupTopics) -> None:
        self._log = log
        self._topics = topics
        self._partition = TopicPartition(topics.checkpoints)

    async def announce(self, state: TrainState) -> None:
        """Write `state`, which the caller keeps still meanwhile. Cancelled, the slot is not whole; the other one is."""
        begin = time.perf_counter()
        parts, num_bytes = await self._write(state, None)
        logger().info(
            "exchange.announced",
            generation=state.generation,
            epoch=state.position.epoch,
            parts=parts,
            bytes=num_bytes,
            ms=round((time.perf_counter() - begin) * 1e3, 1),
        )

    async def offer(self, state: TrainState, founder: str, place: int) -> None:
        """As `announce`: the state for all to go on from, at this place in the log."""
        group = state_json.from_json(state.exchange) if state.exchange else State()
        at_place = replace(state, exchange=state_json.to_json(replace(group, next_offset=place)))
        await self._write(at_place, RecoveryOffer(founder, place, state.generation))
        logger().warning("exchange.offered", generation=state.generation, epoch=state.position.epoch, offset=place)

    async def newest(self, like: TrainState, at_least: int = 0) -> TrainState | None:
        """What `Announced.best` says of all that is there now."""
        async with self._all(like, param_vector.size(like.params)) as announced:
            return await announced.best(at_least)

    async def is_offered(self, like: TrainState) -> bool:
        """Whether there is an offer now that may still be taken."""
        async with self._all(like, param_vector.size(like.params)) as announced:
            return bool(await announced.offers())

    async def newest_group(self, num_parameters: int) -> State | None:
        """As `newest`, for who holds no weights: the state of the log's fold alone."""
        async with self._all(None, num_parameters) as announced:
            return _group(await announced.best())

    async def group_joined_by(self, joining: Sequence[Join], num_parameters: int) -> State | None:
        """What `Announced.joined_by` says, for who holds no weights."""
        async with self._all(None, num_parameters) as announced:
            return _group(await announced.joined_by(joining))

    async def wait(self, like: TrainState, at_least: int) -> TrainState:
        """As `newest`, but waits until there is one."""
        async with self.follow(like) as announced:
            while (found := await announced.best(at_least)) is None:
                await announced.read_on()
            return found

    @asynccontextmanager
    async def follow(self, like: TrainState) -> AsyncIterator[CheckpointReader]:
        """What is there, and for `read_on` what comes."""
        async with self._all(like, param_vector.size(like.params)) as announced:
            yield announced

    @asynccontextmanager
    async def _all(self, like: TrainState | None, num_parameters: int) -> AsyncIterator[CheckpointReader]:
        low, high = (await self._log.watermarks([self._partition]))[self._partition]
        async with self._log.reader({self._partition: low}) as reader:
            announced = CheckpointReader(self._log, reader, self._topics, like, num_parameters)
            await announced.read_to(high)
            yield announced

    async def _write(self, state: TrainState, offer: RecoveryOffer | None) -> tuple[int, int]:
        """How many parts and bytes it was."""
        blob = await run_in_worker(checkpoint.encode, state)
        topic = self._topics.checkpoints
        chunks = [blob[at : at + CHUNK_BYTES] for at in range(0, len(blob), CHUNK_BYTES)]
        head = Head(state.generation, state.position.epoch, len(chunks), hashlib.sha256(blob).hexdigest(), offer)
        for i, chunk in enumerate(chunks):
            await self._log.append([Message(topic, chunk, f"{head.slot}/{i}".encode())])
        await self._log.append([Message(topic, head.encode(), head.key)])
        return len(chunks), len(blob)


def _group(state: TrainState | None) -> State | None:
    return None if state is None else state_json.from_json(state.exchange)
