"""The log lines for what a reader cannot deliver: records that are gone, and unreadable batches."""

from edged.adapters.kafka.batches import Decoded
from edged.log import logger
from edged.ports import TopicPartition


def log_loss(event: str, partition: TopicPartition, wanted_offset: int, next_offset: int) -> None:
    """`event`: why what was wanted is not there; reading continues at `next_offset`."""
    topic, number = partition
    logger().warning(event, topic=topic, partition=number, wanted_offset=wanted_offset, next_offset=next_offset)


def log_unreadable(partition: TopicPartition, first_offset: int, decoded: Decoded) -> None:
    """Batches from `first_offset` on cannot be decoded; reading continues after them."""
    logger().error(
        "kafka.unreadable",
        topic=partition.topic,
        partition=partition.partition,
        first_offset=first_offset,
        next_offset=decoded.next_offset,
        err=decoded.error,
    )
