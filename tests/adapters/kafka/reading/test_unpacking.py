"""What a consumer makes of a fetched partition in which not every batch can be unpacked."""

import struct
from collections.abc import Callable, Iterable
from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.memory_records import MemoryRecords

from edged.adapters.kafka.reading import unpacking
from edged.adapters.kafka.reading.batches import patch_decoding
from edged.log import ThrottledLog
from tests.support.record_batches import ZSTD, batch, bomb

GOOD = batch(b"good")
NOT_TEXT = batch(header=b"\xff\xfe\xfa\xf0")
BROKEN = GOOD[:-1] + b"?"
INFLATED = batch(bytes(3 << 20), codec=ZSTD, pack=cramjam.zstd.compress)


@pytest.fixture(autouse=True)
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_decoding()
    unpacking.pass_unreadable_batches()
    monkeypatch.setattr("edged.adapters.kafka.reading.skipped._lines", ThrottledLog())


def fetched(batches: Iterable[bytes], position: int = 0) -> Any:
    """The batches of one record each, as a fetch from `position` on returns them."""
    stored = b"".join(struct.pack(">q", offset) + each[8:] for offset, each in enumerate(batches))
    return PartitionRecords(KafkaPartition("iot", 0), MemoryRecords(stored), [], position, None, None, True, 0)


@pytest.mark.parametrize("bad", [lambda: NOT_TEXT, bomb, lambda: BROKEN], ids=["not text", "bomb", "broken"])
def test_unreadable_batches_are_passed_by_in_place_and_told_together(
    bad: Callable[[], bytes], log_lines: Callable[..., Any]
):
    records = fetched([GOOD, bad(), bad(), GOOD, bad(), GOOD])

    assert [record.offset for record in records] == [0, 3, 5]
    assert records.next_fetch_offset == 6
    (line,) = log_lines("kafka.unreadable")
    assert (line["topic"], line["first_offset"], line["next_offset"]) == ("iot", 1, 3)


def test_the_line_names_all_that_a_broken_batch_of_many_records_held(log_lines: Callable[..., Any]):
    """Its header is not trusted; the next record tells."""
    held_five = struct.pack(">q", 1) + BROKEN[8:]
    behind = struct.pack(">q", 6) + GOOD[8:]
    stored = MemoryRecords(struct.pack(">q", 0) + GOOD[8:] + held_five + behind)
    records = PartitionRecords(KafkaPartition("iot", 0), stored, [], 0, None, None, True, 0)

    assert [record.offset for record in records] == [0, 6]
    (line,) = log_lines("kafka.unreadable")
    assert (line["first_offset"], line["next_offset"]) == (1, 6)


def test_after_an_unreadable_end_reading_continues_behind_it():
    records = fetched([GOOD, NOT_TEXT])
    assert [record.offset for record in records] == [0]
    assert records.next_fetch_offset == 2


def test_the_position_is_kept_between_records_and_batches_before_it_are_passed():
    records = fetched([NOT_TEXT, GOOD, GOOD], position=1)
    assert (next(records).offset, records.next_fetch_offset) == (1, 2)
    assert [record.offset for record in records] == [2]


def test_batches_that_are_unpacked_in_vain_end_the_turn_of_their_partition():
    records = fetched([GOOD, *[bomb()] * 10, GOOD])
    assert [record.offset for record in records] == [0]
    assert records.next_fetch_offset == 5, "the rest is fetched again"


def test_batches_that_unpack_to_much_end_the_turn_of_their_partition():
    records = fetched([INFLATED] * 100)
    assert [record.offset for record in records] == list(range(7))
    assert records.next_fetch_offset == 7
