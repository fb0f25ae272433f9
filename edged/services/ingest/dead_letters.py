"""Dead letters: rejected records, kept in a topic of their edge with the reason in the headers, and logged.

See also: `ingest`, which decides what is rejected.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edged.domain.samples.sample import REASONS
from edged.errors import RecordTooLarge
from edged.log import Throttle, ThrottledLog
from edged.ports import Log, Message, Record

MAX_LETTER_BYTES = 256 * 1024
"""Bytes of a dead letter's value: enough to see what it is, below any message limit."""

MAX_DETAIL = 400
"""Characters of a letter's detail, which may quote what others wrote: headers count towards what a topic takes."""

_MAX_APPEND_BYTES = 1 << 20
"""Bytes of values in one append: a device that sends nothing else must not make each of its records a round trip."""


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
        self._lines = ThrottledLog(Throttle(max_kinds=max(num_devices, 1) * len(REASONS)))
        self._num_sent = 0

    @property
    def num_sent(self) -> int:
        """Records dead-lettered since start."""
        return self._num_sent

    async def send(self, letters: Iterable[tuple[Record, DeadLetter]]) -> None:
        """Return once all letters are acknowledged. Cancelled: each may or may not be in the topic."""
        for portion in _portions(letters):
            await self._append(portion, MAX_LETTER_BYTES)
            self._num_sent += len(portion)
            for record, rejected in portion:
                self._log_rejected(rejected, len(record.value))

    async def _append(self, portion: Sequence[tuple[Record, DeadLetter]], max_bytes: int) -> None:
        """Write the letters, each with as much of its record as the topic takes."""
        try:
            await self._log.append(
                [_message(self._topic, record, letter, max_bytes) for record, letter in portion],
                refuse_too_large=max_bytes > 0,
            )
        except RecordTooLarge as error:
            await self._append(portion[len(error.written) :], max_bytes // 4)

    def _log_rejected(self, rejected: DeadLetter, size_bytes: int) -> None:
        self._lines.warning(
            "ingest.rejected",
            (rejected.device, rejected.reason),
            device=rejected.device,
            partition=rejected.partition,
            offset=rejected.offset,
            reason=rejected.reason,
            detail=rejected.detail[:MAX_DETAIL],
            size_bytes=size_bytes,
        )


def _portions(letters: Iterable[tuple[Record, DeadLetter]]) -> Iterator[Sequence[tuple[Record, DeadLetter]]]:
    """The letters in pieces for one append each."""
    portion: list[tuple[Record, DeadLetter]] = []
    num_bytes = 0
    for each in letters:
        portion.append(each)
        num_bytes += min(len(each[0].value), MAX_LETTER_BYTES)
        if num_bytes >= _MAX_APPEND_BYTES:
            yield portion
            portion, num_bytes = [], 0
    if portion:
        yield portion


def _message(topic: str, record: Record, rejected: DeadLetter, max_bytes: int) -> Message:
    return Message(
        topic,
        record.value[:max_bytes],
        key=rejected.device.encode(),
        headers=(
            ("reason", rejected.reason.encode()),
            ("detail", rejected.detail[:MAX_DETAIL].encode(errors="replace")),
            ("device", rejected.device.encode()),
            ("partition", str(rejected.partition).encode()),
            ("offset", str(rejected.offset).encode()),
            ("incarnation", record.incarnation.encode()),
            ("size", str(len(record.value)).encode()),
        ),
    )
