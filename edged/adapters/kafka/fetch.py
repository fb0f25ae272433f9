"""One fetch of one partition that is asked for by hand: the request, and what its answer says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.protocol.fetch import FetchRequest

from edged.ports import TopicPartition

WAIT_MS = 100
_UNCOMMITTED, _COMMITTED = 0, 1


@dataclass(frozen=True, slots=True)
class Answer:
    """`batches`: as stored; `aborted`: producer id and first offset of each aborted transaction among them.

    `out_of_range`: the offset that was asked for is not in the log. `is_empty`: the log has nothing from there on, up
    to `stable`, or to `high` if the fetch was uncommitted.
    """

    batches: bytes = b""
    aborted: Sequence[tuple[int, int]] = ()
    stable: int = 0
    high: int = 0
    out_of_range: bool = False
    is_empty: bool = False


def request(partition: TopicPartition, offset: int, max_bytes: int, *, committed: bool) -> FetchRequest:
    """For the batches from `offset` on, about `max_bytes`."""
    topics = [(partition.topic, [(partition.partition, offset, max_bytes)])]
    return FetchRequest(WAIT_MS, 1, max_bytes, _COMMITTED if committed else _UNCOMMITTED, topics)


def answer_of(response: Any) -> tuple[int, Answer]:
    """Error code and content of the response to a `request`."""
    # throttled, a broker answers with no partition at all
    partitions = [partition for _topic, partitions in response.topics for partition in partitions]
    if not partitions:
        return 0, Answer()
    [(_partition, code, high, stable, *more, batches)] = partitions
    if code == OffsetOutOfRangeError.errno:
        return 0, Answer(out_of_range=True)
    # from version 5 on after the log's start, from version 11 on before the preferred replica
    aborted = more[1] if response.API_VERSION >= 11 else more[-1]
    return code, Answer(batches or b"", tuple(aborted or ()), stable, high, is_empty=not batches)
