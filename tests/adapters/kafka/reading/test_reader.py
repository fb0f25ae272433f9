"""When a reader reports that Kafka is silent, with a consumer that never gets an answer. The clock is fake."""

import asyncio
from typing import Any

import pytest

from edged.adapters.kafka.admin import Admin
from edged.adapters.kafka.client_log import ClientLog
from edged.adapters.kafka.connection import Outages, Setup
from edged.adapters.kafka.reading.reader import KafkaReader
from edged.adapters.kafka.refusals import Identity
from edged.adapters.memory.health import RecordingHealth
from edged.ports import TopicPartition

PARTITION = TopicPartition("garden")


class SilentConsumer:
    """Gives nothing; each call takes `late_s` longer than it was asked to, as in a process that gets no turn."""

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s

    async def getmany(self, *, timeout_ms: int, **_: Any) -> dict[Any, Any]:
        await asyncio.sleep(timeout_ms / 1000 + self._late_s)
        return {}

    def last_poll_timestamp(self, _partition: object) -> None: ...

    def highwater(self, _partition: object) -> None: ...

    async def position(self, _partition: object) -> int:
        return 0

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return {0}


def reader(health: RecordingHealth, late_s: float, monkeypatch: pytest.MonkeyPatch) -> KafkaReader:
    setup = Setup({"bootstrap_servers": ["nowhere:1"]}, Outages(health, deadline_s=5.0), ClientLog(), Identity())

    async def start(_: KafkaReader) -> SilentConsumer:
        return SilentConsumer(late_s)

    monkeypatch.setattr(KafkaReader, "_start", start)
    return KafkaReader(setup, Admin(setup), {PARTITION: 0}, None)


class EmptyEnd(SilentConsumer):
    """Answers each fetch, at offset 3 of a log that ends at 9, with nothing, as where compaction has removed all."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.sought: list[int] = []

    def last_poll_timestamp(self, _partition: object) -> int:  # type: ignore[override]
        return int(asyncio.get_running_loop().time() * 1000)

    def highwater(self, _partition: object) -> int:  # type: ignore[override]
        return 9

    last_stable_offset = highwater

    async def position(self, _partition: object) -> int:
        return self.sought[-1] if self.sought else 3

    def seek(self, _partition: object, offset: int) -> None:
        self.sought.append(offset)


@pytest.mark.looptime
async def test_an_end_whose_batches_compaction_has_removed_whole_is_passed(monkeypatch):
    reading = reader(RecordingHealth(), 0.0, monkeypatch)
    consumer = EmptyEnd()

    async def start(_: KafkaReader) -> EmptyEnd:
        return consumer

    monkeypatch.setattr(KafkaReader, "_start", start)
    for _ in range(4):
        assert await reading.poll(max_records=1, timeout_s=1.0) == []

    assert (reading.position(PARTITION), reading.lag(), consumer.sought) == (9, 0, [9])


@pytest.mark.looptime
async def test_a_broker_that_answers_no_fetch_degrades_health(monkeypatch):
    health = RecordingHealth()
    await reader(health, 0.0, monkeypatch).poll(max_records=1, timeout_s=7.0)

    assert health.reasons == {"kafka": "no fetch answered for 7 s"}


@pytest.mark.looptime
async def test_polls_that_do_not_wait_notice_a_silent_broker_too(monkeypatch):
    health = RecordingHealth()
    silent = reader(health, 0.0, monkeypatch)
    for _ in range(60):
        await silent.poll(max_records=1, timeout_s=0.0)
        await asyncio.sleep(0.1)

    assert "no fetch answered" in health.reasons["kafka"]


@pytest.mark.looptime
async def test_a_process_that_was_delayed_itself_does_not_blame_kafka(monkeypatch):
    """Busy neighbours, a suspended laptop: the answer may be in the socket."""

    async def check_logs(*_: Any) -> None:
        """What the reader asks the broker beside its fetches is answered."""

    monkeypatch.setattr(KafkaReader, "_check_logs", check_logs)
    health = RecordingHealth()
    await reader(health, 18.0, monkeypatch).poll(max_records=1, timeout_s=1.0)

    assert health.reasons == {}
