"""Tells of other clients' open transactions: while one is open, nothing after its first record can be read."""

from dataclasses import dataclass
from typing import Any

from edged.log import Throttle, logger
from edged.ports import TopicPartition

_TELL_AFTER_S = 30.0
"""A transaction in use ends within seconds; a dead client's is ended by Kafka, after a minute by default."""

_TELL_AGAIN_S = 600.0


@dataclass(slots=True)
class _HeldUp:
    """A partition whose readers have come to the last stable offset, and cannot go on."""

    stable: int
    since_s: float
    is_told: bool = False

    def fields(self, partition: TopicPartition, now_s: float) -> dict[str, Any]:
        """For the log."""
        topic, number = partition
        held_s = round(now_s - self.since_s, 3)
        return {"topic": topic, "partition": number, "offset": self.stable, "held_s": held_s}


class OpenTransactions:
    """What all readers of one log have seen of them; knows no clock."""

    def __init__(self) -> None:
        self._held_up: dict[TopicPartition, _HeldUp] = {}
        self._throttle = Throttle(_TELL_AGAIN_S)

    def update(self, partition: TopicPartition, *, position: int, stable: int, high: int, now_s: float) -> None:
        """A reader of the partition is at `position`, and these are the ends that it has seen last."""
        held = self._held_up.get(partition)
        if held is not None and (stable != held.stable or stable >= high):
            del self._held_up[partition]
            if held.is_told:
                logger().info("kafka.let_go", **held.fields(partition, now_s))
            held = None
        if position < stable or stable >= high:
            return
        if held is None:
            held = self._held_up[partition] = _HeldUp(stable, now_s)
        if now_s - held.since_s >= _TELL_AFTER_S and self._throttle.pass_on(partition, now_s) is not None:
            held.is_told = True
            logger().warning("kafka.held_up", **held.fields(partition, now_s), records=high - stable)
