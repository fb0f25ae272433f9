"""A rejected record is kept with its reason, and logged at most once in ten seconds per device and reason."""

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.domain.samples.sample import REASONS
from edged.ports import Record
from edged.services.ingest.dead_letters import MAX_DETAIL, MAX_LETTER_BYTES, DeadLetter, DeadLetters

pytestmark = pytest.mark.looptime


def record(value):
    return Record("site.iot.cam", 0, 7, 0, None, value)


async def test_a_letter_keeps_the_beginning_of_a_large_value_and_its_true_size():
    log = MemoryLog()
    await DeadLetters(log, "dead").send([(record(bytes(300_000)), DeadLetter("cam", 0, 7, "too_large", "why"))])
    (letter,) = log.records("dead")
    assert len(letter.value) == MAX_LETTER_BYTES
    assert dict(letter.headers)["size"] == b"300000"


async def test_a_letters_detail_is_of_a_few_lines_whatever_it_quotes(log_lines):
    log = MemoryLog()
    detail = "\ud800" + "x" * 1000
    await DeadLetters(log, "dead").send([(record(b"x"), DeadLetter("cam", 0, 7, "wrong_pack", detail))])
    (letter,) = log.records("dead")
    assert dict(letter.headers)["detail"] == b"?" + b"x" * (MAX_DETAIL - 1)
    assert log_lines("ingest.rejected")[0]["detail"].count("x") == MAX_DETAIL - 1


async def test_every_letter_is_sent_and_the_lines_are_throttled_per_device_and_reason(log_lines):
    log = MemoryLog()
    letters = DeadLetters(log, "dead")
    for device in ("cam", "cam", "cam-2"):
        await letters.send([(record(b"x"), DeadLetter(device, 0, 7, "wrong_length", ""))])
    assert letters.num_sent == len(log.records("dead")) == 3
    assert [line["device"] for line in log_lines("ingest.rejected")] == ["cam", "cam-2"]


async def test_a_flood_of_many_devices_is_throttled_for_each_and_counted(log_lines):
    devices = [f"cam-{i}" for i in range(300)]
    letters = DeadLetters(MemoryLog(), "dead", len(devices))
    for _ in range(3):
        for device in devices:
            for reason in REASONS:
                await letters.send([(record(b"x"), DeadLetter(device, 0, 7, reason, ""))])
    assert letters.num_sent == 3 * 300 * len(REASONS)
    assert len(log_lines("ingest.rejected")) == 300 * len(REASONS)


@pytest.mark.parametrize(("size", "appends"), [(10, 1), (1 << 20, 64)])
async def test_a_device_that_sends_nothing_else_costs_few_round_trips_and_little_memory(monkeypatch, size, appends):
    log, sizes = MemoryLog(), []
    append = log.append

    async def append_noted(messages, **options):
        sizes.append(sum(len(message.value) for message in messages))
        return await append(messages, **options)

    monkeypatch.setattr(log, "append", append_noted)
    await DeadLetters(log, "dead").send((record(bytes(size)), DeadLetter("cam", 0, i, "empty", "")) for i in range(256))

    assert len(log.records("dead")) == 256
    assert (len(sizes), max(sizes)) == (appends, min(256 * size, 1 << 20))
    offsets = [dict(letter.headers)["offset"] for letter in log.records("dead")]
    assert offsets == [str(i).encode() for i in range(256)]
