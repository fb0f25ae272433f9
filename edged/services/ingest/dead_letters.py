"""Dead letters: rejected records, kept in a topic of their edge with the reason in the headers, and logged.

See also: `ingest`, which decides what is rejected.
"""

import asyncio
from dataclasses import dataclass

from edged.domain.samples.sample import REASONS
from edged.log import Throttle, logger
from edged.ports import Log, Message, Record

MAX_LETTER_BYTES = 256 * 1024
"""Bytes of a dead letter's value: enough to see what it is, below any message limit."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is no sample; it is in the dead-letter topic. `reason`: one of `domain.samples.sample.REASONS`."""

    device: str
    partition: int
    offset: int
    reason: str
    detail: str


class DeadLetters:
    """Writes one edge's dead-letter topic; logs at most one line per device and reason in 10 s."""

    def __init__(self, log: Log, topic: str, num_devices: int = 1) -> None:
        self._log = log
        self._topic = topic
        self._throttle = Throttle(max_kinds=max(num_devices, 1) * len(REASONS))
        self._num_sent = 0

    @property
    def num_sent(self) -> int:
        """Records dead-lettered since start."""
        return self._num_sent

    async def send(self, record: Record, rejected: DeadLetter) -> None:
        """Return once the letter is acknowledged. Cancelled: it may or may not be in the topic."""
        await self._log.append([_message(self._topic, record, rejected)])
        self._num_sent += 1
        self._log_rejected(rejected, len(record.value))

    def _log_rejected(self, rejected: DeadLetter, size_bytes: int) -> None:
        now_s = asyncio.get_running_loop().time()
        suppressed = self._throttle.pass_on((rejected.device, rejected.reason), now_s)
        if suppressed is not None:
            logger().warning(
                "ingest.rejected",
                device=rejected.device,
                partition=rejected.partition,
                offset=rejected.offset,
                reason=rejected.reason,
                detail=rejected.detail,
                size_bytes=size_bytes,
                suppressed=suppressed,
            )


def _message(topic: str, record: Record, rejected: DeadLetter) -> Message:
    return Message(
        topic,
        record.value[:MAX_LETTER_BYTES],
        key=rejected.device.encode(),
        headers=(
            ("reason", rejected.reason.encode()),
            ("detail", rejected.detail.encode()),
            ("device", rejected.device.encode()),
            ("partition", str(rejected.partition).encode()),
            ("offset", str(rejected.offset).encode()),
            ("size", str(len(record.value)).encode()),
        ),
    )
