"""Other clients that write to a topic, in ways that edged itself never does."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaClient, AIOKafkaProducer
from aiokafka.errors import LeaderNotAvailableError, NotLeaderForPartitionError, UnknownTopicOrPartitionError
from aiokafka.protocol.produce import ProduceRequest

from edged.ports import Message
from tests.support.record_batches import batch

UNREADABLE = batch(header=b"\xff\xfe\xfa\xf0")
"""A batch of one record whose header is no text."""

_NOT_READY = (
    UnknownTopicOrPartitionError.errno,
    LeaderNotAvailableError.errno,
    NotLeaderForPartitionError.errno,
)


class ForeignTransaction:
    """One transaction of a producer of its own; made by `transaction`."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def append(self, messages: Sequence[Message]) -> None:
        """Write the messages; they are in the log when it returns."""
        for each in messages:
            await self._producer.send_and_wait(each.topic, each.value, each.key, each.partition)

    async def write(self, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Write keys with values; they are in the log when it returns."""
        for key, value in records:
            await self._producer.send_and_wait(topic, value, key)

    async def commit(self) -> None:
        """End it; the marker is in the log soon after."""
        await self._producer.commit_transaction()

    async def abort(self) -> None:
        """End it; the marker is in the log soon after."""
        await self._producer.abort_transaction()


@asynccontextmanager
async def transaction(bootstrap: str, timeout_s: float = 60) -> AsyncIterator[ForeignTransaction]:
    """A transaction that has begun. Left open, the broker aborts it after the timeout."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        transactional_id=f"foreign-{uuid.uuid4()}",
        transaction_timeout_ms=round(timeout_s * 1000),
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        yield ForeignTransaction(producer)
    finally:
        await producer.stop()


async def write_batch(bootstrap: str, topic: str, data: bytes) -> None:
    """Write a batch as it is, as a client of any make might."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        code = _NOT_READY[0]
        while code in _NOT_READY:  # the answer of a broker that is still making the topic
            answer = await client.send(client.get_random_node(), ProduceRequest(None, -1, 5000, [(topic, [(0, data)])]))
            code = answer.topics[0][1][0][1]
    finally:
        await client.close()
    assert code == 0, f"the broker refused the batch: {code}"
