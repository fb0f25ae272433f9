"""The soak's devices: each publishes numbered samples all the time, unless it is held.

Covers one client of edged's own and one of librdkafka's, and what other programs write into a device's topic.
"""

import asyncio
import functools
import math
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from edged.device import Device
from edged.domain.topology import Topology
from tests.support.soak.ledger import Ledger, Numbered

PERIOD_S = 0.25
BATCH = 4
"""Samples of a device in each period."""

LIBRDKAFKA = {
    "enable.idempotence": True,
    "message.timeout.ms": 0,
    "topic.metadata.refresh.interval.ms": 500,
    "reconnect.backoff.max.ms": 1000,
    "log_level": 0,
}
"""It tries for ever, and writes each record once."""


_NO_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


_IN_DOUBT = {KafkaError._DESTROY, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
"""librdkafka 2.16 forgot the broker while a record was in flight to it, or sends nothing any more."""

_PATIENCE_S = 60.0
"""After which a client that delivers nothing is replaced, as whoever runs a device would: no fault lasts as long."""


class _Client(Protocol):
    async def publish(self, samples: Sequence[Numbered]) -> Sequence[Numbered]:
        """Those that are acknowledged; of the others the client does not know whether they are in the log."""


class _Edged:
    def __init__(self, device: Device) -> None:
        self._device = device

    async def publish(self, samples: Sequence[Numbered]) -> Sequence[Numbered]:
        await self._device.publish_many([(each.payload, each.label) for each in samples])
        return samples


class _Librdkafka:
    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._producer = Producer({"bootstrap.servers": bootstrap, **LIBRDKAFKA})
        self._topic = topic

    async def publish(self, samples: Sequence[Numbered]) -> Sequence[Numbered]:
        acknowledged: list[Numbered] = []
        while samples:
            errors = await self._attempt(samples)
            acknowledged += [each for each in samples if errors[each.number] is None]
            samples = [each for each in samples if _code(errors[each.number]) in _NO_TOPIC]
            if samples:  # there is no topic yet
                await asyncio.sleep(PERIOD_S)
        return acknowledged

    async def _attempt(self, samples: Sequence[Numbered]) -> Mapping[int, KafkaError | None]:
        """What became of each. Raises RuntimeError when the client gives up for a reason of its own."""
        errors: dict[int, KafkaError | None] = {}
        for each in samples:
            told = functools.partial(_take_error, errors, each.number)
            try:
                self._producer.produce(self._topic, each.payload, each.label, on_delivery=told)
            except KafkaException as error:  # as above, if it was not there a moment ago
                errors[each.number] = error.args[0]
        if await asyncio.to_thread(self._producer.flush, _PATIENCE_S):
            self._producer.purge()
            await asyncio.to_thread(self._producer.flush, _PATIENCE_S)
            self._producer = Producer({"bootstrap.servers": self._bootstrap, **LIBRDKAFKA})
        if given_up := [error for error in errors.values() if _code(error) not in {None, *_NO_TOPIC, *_IN_DOUBT}]:
            raise RuntimeError(f"a device's client gave up: {given_up[0]}")
        return errors


def _code(error: KafkaError | None) -> int | None:
    return None if error is None else error.code()


def _take_error(errors: dict[int, KafkaError | None], number: int, error: KafkaError | None, _message: object) -> None:
    errors[number] = error


class NumberedDevice:
    """One device; `hold` keeps it from publishing."""

    def __init__(self, name: str, topology: Topology, bootstrap: str, ledger: Ledger) -> None:
        self.name = name
        self.edge = ledger.edge_of[name]
        self.topic = topology.device_topic(name)
        self._topology = topology
        self._bootstrap = bootstrap
        self._ledger = ledger
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Inside, none of its records is in flight."""
        async with self._turn:
            yield

    async def run(self, batches: float = math.inf) -> None:
        """Publish until cancelled, or this number of batches; records in flight when cancelled are in doubt."""
        async with AsyncExitStack() as stack:
            client = await self._client(stack)
            while batches > 0:
                async with self._turn:
                    samples = self._ledger.draw(BATCH)
                    self._ledger.maybe(samples)
                    self._ledger.acknowledged(self.name, await client.publish(samples))
                batches -= 1
                await asyncio.sleep(PERIOD_S)

    async def _client(self, stack: AsyncExitStack) -> _Client:
        if self.name == "dev-1":
            device = Device(self._topology, self.name, receive=False)
            return _Edged(await stack.enter_async_context(device))
        return _Librdkafka(self._bootstrap, self.topic)


@asynccontextmanager
async def publishing(devices: Sequence[NumberedDevice]) -> AsyncIterator[None]:
    """Inside, all publish; afterwards no record is in flight."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(device.run(), name=device.name) for device in devices]
        yield
        async with AsyncExitStack() as held:
            for device in devices:
                await held.enter_async_context(device.held())
            for task in tasks:
                task.cancel()


def poison(rng: random.Random) -> tuple[bytes | None, bytes | None]:
    """Key and value of a record that no device should send."""
    good = bytes(64)
    return rng.choice(
        [
            (b"even", b""),
            (b"even", None),
            (b"even", good[:-1]),
            (b"even", good * 2),
            (b"neither", good),
            (b"\xff\xfe", good),
            (b"e" * 10_000, good),
            (b"odd", bytes(200_000)),
        ]
    )


def write(bootstrap: str, topic: str, records: Sequence[tuple[bytes | None, bytes | None]]) -> None:
    """Write the records, as any client; returns when they are acknowledged."""
    producer = Producer({"bootstrap.servers": bootstrap, **LIBRDKAFKA})
    for key, value in records:
        producer.produce(topic, value, key)
    producer.flush()
