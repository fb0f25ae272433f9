"""The log lines for what a reader cannot deliver: records that are gone, and unreadable batches.

Anybody may write unreadable batches, and as many as he likes: of each topic one line in 10 s, whoever reads it.
"""

from edged.log import ThrottledLog, logger
from edged.ports import TopicPartition

_lines = ThrottledLog()


def log_loss(event: str, partition: TopicPartition, wanted_offset: int, next_offset: int) -> None:
    """`event`: why what was wanted is not there; reading continues at `next_offset`."""
    topic, number = partition
    logger().warning(event, topic=topic, partition=number, wanted_offset=wanted_offset, next_offset=next_offset)


def log_unreadable(partition: TopicPartition, first_offset: int, next_offset: int, error: str) -> None:
    """Batches from `first_offset` on cannot be decoded; reading continues after them."""
    _lines.error(
        "kafka.unreadable",
        partition.topic,
        topic=partition.topic,
        partition=partition.partition,
        first_offset=first_offset,
        next_offset=next_offset,
        err=error,
    )
