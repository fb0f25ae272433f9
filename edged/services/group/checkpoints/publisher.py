"""Publishes a group's checkpoints to its compacted topic, in pieces.

A checkpoint's pieces have the keys `<slot>/<part>`, its head, written last, `head/<slot>` or, if it is an offer,
`offer/<edge>`; the slots are used in turn, so that one is complete while the other is being written. See also:
`checkpoints.reader` for reading them, `domain.training.checkpoint` for their contents.
"""

import hashlib
import time
from dataclasses import replace

from edged.aio import run_in_worker
from edged.domain.group import state_json
from edged.domain.group.recovery import RecoveryOffer
from edged.domain.group.state import State
from edged.domain.training import checkpoint
from edged.domain.training.state import TrainState
from edged.log import logger
from edged.ports import Log, Message
from edged.services.group.checkpoints.reader import CHUNK_BYTES, Head


class CheckpointPublisher:
    """Writes the checkpoints of one job to `topic`."""

    def __init__(self, log: Log, topic: str) -> None:
        self._log = log
        self._topic = topic

    async def announce(self, state: TrainState) -> None:
        """Write `state`, which the caller must not change meanwhile.

        Cancelled: the slot is incomplete; the other one is complete.
        """
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

    async def offer(self, state: TrainState, proposer: str, offset: int) -> None:
        """As `announce`: a state for all to resume from at `offset` of the group's log, proposed by an edge."""
        group = state_json.from_json(state.exchange) if state.exchange else State()
        at_offset = replace(state, exchange=state_json.to_json(replace(group, next_offset=offset)))
        await self._write(at_offset, RecoveryOffer(proposer, offset, state.generation))
        logger().warning("exchange.offered", generation=state.generation, epoch=state.position.epoch, offset=offset)

    async def _write(self, state: TrainState, offer: RecoveryOffer | None) -> tuple[int, int]:
        """Returns the number of parts and of bytes."""
        blob = await run_in_worker(checkpoint.encode, state)
        chunks = [blob[start : start + CHUNK_BYTES] for start in range(0, len(blob), CHUNK_BYTES)]
        head = Head(state.generation, state.position.epoch, len(chunks), hashlib.sha256(blob).hexdigest(), offer)
        for i, chunk in enumerate(chunks):
            await self._log.append([Message(self._topic, chunk, f"{head.slot}/{i}".encode())])
        await self._log.append([Message(self._topic, head.encode(), head.key)])
        return len(chunks), len(blob)
