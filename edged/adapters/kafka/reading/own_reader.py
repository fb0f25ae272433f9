"""Reads what this node has written itself, up to the high watermark, past open transactions of other clients.

A consumer that reads committed records stops at the first open transaction, and one that reads uncommitted ones is not
told which were aborted. Here each fetch is asked for by hand: committed below the last stable offset; from there on
only batches of no transaction, which all of ours are.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from edged.adapters.kafka.admin import Admin
from edged.adapters.kafka.reading.batches import decode
from edged.adapters.kafka.reading.incarnations import look
from edged.adapters.kafka.reading.skipped import log_loss, log_unreadable
from edged.domain import place as places
from edged.domain.place import Place
from edged.ports import Record, TopicPartition

_FETCH_BYTES = 256 << 10
"""Kafka delivers a larger record."""

_PAUSE_S = 0.1


class OwnReader:
    """A `ports.LogReader`, from `KafkaLog.reader`. A poll may exceed its timeout by a fetch, and waits for the broker.

    Looks once whether the logs are those of its places. Has no group: `commit` is for readers of content.
    """

    def __init__(self, admin: Admin, positions: Mapping[TopicPartition, Place | int]) -> None:
        self._admin = admin
        self._places = {each: places.of(position) for each, position in positions.items()}
        self._is_located = False
        self._fetched: dict[TopicPartition, deque[Record]] = {}
        self._next: dict[TopicPartition, int] = {}  # after what was fetched
        self._high: dict[TopicPartition, int] = {}

    @property
    def may_show_gaps(self) -> bool:
        return not self._admin.idempotent

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        if not self._is_located:
            await self._locate(self._places)
            self._is_located = True
        while True:
            for partition in list(self._places):
                if not self._fetched.get(partition):
                    await self._fetch(partition)
                if records := self._take(partition, max_records):
                    self._places[partition] = self._places.pop(partition)  # last in the next poll
                    return records
            if (left_s := ends_s - loop.time()) <= 0:
                return []
            await asyncio.sleep(min(_PAUSE_S, left_s) if self.lag() == 0 else 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._places[partition] = self._places[partition]._replace(offset=offset, before="", next="")
        self._fetched.pop(partition, None)

    async def commit(self, places: Mapping[TopicPartition, Place], note: str = "") -> None:
        raise NotImplementedError("a reader of own records has no group")

    def lag(self) -> int:
        return sum(self.lag_by_topic().values())

    def lag_by_topic(self) -> dict[str, int]:
        lag = Counter[str]()
        for each, place in self._places.items():
            lag[each.topic] += max(0, self._high.get(each, 0) - place.offset)
        return dict(+lag)

    def position(self, partition: TopicPartition) -> int:
        return self._places[partition].offset

    def place(self, partition: TopicPartition) -> Place:
        return self._places[partition]

    async def close(self) -> None:
        """Nothing is open."""

    def _take(self, partition: TopicPartition, max_records: int) -> list[Record]:
        fetched, place = self._fetched[partition], self._places[partition]
        records = [fetched.popleft() for _ in range(min(max_records, len(fetched)))]
        if records:
            place = records[-1].place_after()
        self._places[partition] = place if fetched else place._replace(offset=self._next[partition])
        return records

    async def _fetch(self, partition: TopicPartition) -> None:
        """The records of one answer; none, and a position after them, of batches that hold none of ours."""
        position = self._places[partition].offset
        answer = await self._admin.fetch(partition, position, _FETCH_BYTES)
        is_committed = position < answer.stable or answer.stable == answer.high
        if not is_committed:
            answer = await self._admin.fetch(partition, position, _FETCH_BYTES, committed=False)
        if answer.out_of_range:
            await self._locate([partition])
            self._fetched[partition], self._next[partition] = deque(), self._places[partition].offset
            return
        decoded = decode(answer.batches, partition, position, answer.aborted, in_transactions=is_committed)
        if decoded.error and not decoded.records:
            log_unreadable(partition, position, decoded.next_offset, decoded.error)
        self._high[partition] = answer.high
        place = self._places[partition]
        self._fetched[partition] = deque(
            replace(each, incarnation=place.incarnation, topic_id=place.topic_id) for each in decoded.records
        )
        self._next[partition] = decoded.next_offset
        if answer.is_empty and self._admin.idempotent:  # the embedded broker may answer before it has looked
            self._next[partition] = max(position, answer.stable if is_committed else answer.high)

    async def _locate(self, partitions: Iterable[TopicPartition]) -> None:
        """Go to the beginning of what has become another log, and past what was deleted."""
        kept = {each: self._places[each] for each in partitions}
        for each, seen in (await look(self._admin, kept)).items():
            place, now = kept[each], places.resume(kept[each], seen)
            if not places.is_same(place, seen):
                log_loss("kafka.another_log", each, place.offset, now.offset)
            elif now.offset < seen.low:
                log_loss("kafka.gap", each, place.offset, seen.low)
                now = now._replace(offset=seen.low)
            self._places[each] = now
