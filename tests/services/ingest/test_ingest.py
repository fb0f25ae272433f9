"""Records of devices become samples or dead letters."""

import asyncio
import dataclasses
import io

import numpy as np
import pytest
import structlog
from PIL import Image

from edged.adapters.memory.log import MemoryLog
from edged.domain.mqtt.identity import WRONG_ID
from edged.domain.mqtt.properties import WRONG_PROPERTY
from edged.domain.mqtt.topics import WRONG_TOPIC
from edged.domain.place import Place
from edged.domain.samples.sample import REASONS, Sample
from edged.events import EVENTS
from edged.ports import Committed, TopicPartition
from edged.services.ingest.dead_letters import MAX_LETTER_BYTES, DeadLetter
from edged.services.mqtt.records import WRONG_PACK
from tests.support.data import birds
from tests.support.intake import (
    DEAD_LETTERS,
    TOPOLOGY,
    archived,
    floats,
    from_device,
    grey,
    identities,
    intake,
    photo,
    reason,
    run_until,
)


async def read_all(log, cursors=None):
    """All that the devices' topics hold, checked."""
    ingest = intake(log).ingest
    found = []
    places = {key: [Place(offset)] for key, offset in (cursors or {}).items()}
    async with ingest.reading(await ingest.partitions.look(), places, lambda _device, _note: True):
        while batch := await ingest.batch(timeout_s=0):
            found += [each.result for each in batch]
    return found


def bomb():
    """A real PNG of 100 megapixels, small as a file."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


POISON = [
    ("empty", from_device("cam", b"")),
    ("wrong_length", from_device("cam", b"12345")),
    ("unknown_label", from_device("cam", grey(0), b"bird")),
    ("key_too_long", from_device("cam", grey(0), b"k" * 1_000_000)),
    ("key_not_text", from_device("cam", grey(0), b"\xff\xfe")),
    ("not_finite", from_device("meter", floats(1, np.nan), b"low")),
    ("denormal", from_device("meter", np.array([1, 20], ">f4").tobytes(), b"low")),
    ("not_an_image", from_device("photo", photo("png"))),
    ("truncated", from_device("photo", photo("jpeg")[:-200])),
    ("too_many_pixels", from_device("scan", bomb())),
    ("too_large", from_device("scan", photo("png") + bytes(800_000))),
]


def test_the_poison_has_every_reason():
    """But those of packs' topics, see `test_uplink`, and of MQTT's packets, see `services/mqtt/test_bridge`."""
    of_packets = {WRONG_TOPIC, WRONG_PROPERTY, WRONG_ID, WRONG_PACK}
    assert {name for name, _ in POISON} == set(REASONS) - {"too_large_for_topic"} - of_packets


@pytest.mark.parametrize(("expected", "poison"), POISON, ids=[name for name, _ in POISON])
async def test_a_bad_record_is_dead_lettered_and_the_others_are_unharmed(expected, poison):
    log = MemoryLog()
    good = [
        from_device("cam", grey(1)),
        from_device("meter", floats(1, 2), b"low"),
        from_device("photo", photo("jpeg")),
        from_device("scan", photo("png")),
    ]
    await log.append([*good, poison, *good])
    found = await read_all(log)
    assert sum(isinstance(each, Sample) for each in found) == 8
    (rejected,) = [each for each in found if isinstance(each, DeadLetter)]
    assert rejected.reason == expected
    (letter,) = log.records(DEAD_LETTERS)
    headers = {name: value.decode() for name, value in letter.headers if name != "edged-id"}
    assert headers.pop("detail") == rejected.detail
    assert headers.pop("incarnation").startswith("id-")
    assert TOPOLOGY.device_topic(headers["device"]) == poison.topic
    assert headers == {
        "reason": expected,
        "device": rejected.device,
        "partition": "0",
        "offset": "1",
        "size": str(len(poison.value)),
    }
    assert letter.key == rejected.device.encode()
    assert letter.value == poison.value[:MAX_LETTER_BYTES]


async def test_a_sample_is_what_the_device_sent():
    log = MemoryLog()
    payload = photo("jpeg")
    await log.append([from_device("photo", payload, b"dog"), from_device("photo", payload, None)])
    labelled, unlabelled = await read_all(log)
    assert (labelled.device, labelled.partition, labelled.offset) == ("photo", 0, 0)
    assert (labelled.label, unlabelled.label) == ("dog", None)
    assert (labelled.codec, labelled.payload) == ("jpeg", payload)
    assert labelled.sampled_ms is None
    assert labelled.arrived_ms == log.records(TOPOLOGY.device_topic("photo"))[0].timestamp_ms


@pytest.mark.parametrize(
    ("header", "sampled_ms"),
    [
        (b"1700000000123", 1_700_000_000_123),
        (b"0", 0),
        *((bad, None) for bad in (b"", b"-1", b"1.5", b"now", b" 1", b"\xd9\xa1", b"9" * 19)),
    ],
)
async def test_a_devices_own_time_comes_with_its_header_whatever_the_records_time(header, sampled_ms):
    log = MemoryLog()
    record = dataclasses.replace(from_device("cam", grey(1)), headers=(("edged-sampled-ms", header),), timestamp_ms=77)
    await log.append([record])
    (sample,) = await read_all(log)
    assert (sample.arrived_ms, sample.sampled_ms) == (77, sampled_ms)


@pytest.mark.looptime
async def test_a_time_that_is_none_is_told_by_device_and_costs_no_sample():
    log = MemoryLog()
    wrong = [
        dataclasses.replace(from_device(*each), headers=(("edged-sampled-ms", b"12:30\n" * 50),))
        for each in (("cam", grey(1)), ("meter", floats(1, 2), b"low"), ("cam", grey(2)))
    ]
    right = dataclasses.replace(from_device("cam", grey(3)), headers=(("edged-sampled-ms", b"17"),))
    await log.append([*wrong, right, from_device("cam", grey(4))])
    with structlog.testing.capture_logs() as lines:
        assert len(await read_all(log)) == 5
    told = [line for line in lines if line["event"] == "ingest.time_ignored"]
    assert [(line["device"], line["samples"]) for line in told] == [("cam", 1), ("meter", 1)]
    assert {line["value"] for line in told} == {("12:30\\n" * 50)[:80]}


async def test_another_edges_devices_are_not_read():
    log = MemoryLog()
    await log.append([from_device("elsewhere", grey(0))])
    assert await read_all(log) == []


async def test_all_partitions_are_read_each_in_order():
    log = MemoryLog()
    await log.append([from_device("cam", grey(n), partition=n % 3) for n in range(30)])
    found = await read_all(log)
    for partition in range(3):
        assert [each.offset for each in found if each.partition == partition] == list(range(10))


async def test_reading_begins_at_the_higher_of_cursor_and_committed_offset():
    log = MemoryLog()
    await log.append([from_device(device, grey(n)) for device in ("cam", "cam-2") for n in range(10)])
    log.commits[TOPOLOGY.group("ingest", "pi"), TopicPartition(TOPOLOGY.device_topic("cam"))] = Committed(Place(9))
    log.commits[TOPOLOGY.group("ingest", "pi"), TopicPartition(TOPOLOGY.device_topic("cam-2"))] = Committed(Place(3))
    found = await read_all(log, {"cam/0": 5, "cam-2/0": 7})
    assert [(each.device, each.offset) for each in found] == [("cam", 9), ("cam-2", 7), ("cam-2", 8), ("cam-2", 9)]


@pytest.mark.looptime
async def test_a_flood_of_bad_records_is_one_line_in_ten_seconds():
    log = MemoryLog()
    ingest = intake(log).ingest
    with structlog.testing.capture_logs() as lines:
        async with ingest.reading(await ingest.partitions.look(), {}, lambda _device, _note: True):
            for _ in range(3):
                await log.append([from_device("cam", b"short")] * 100)
                await log.append([from_device("cam-2", b"short"), from_device("cam", grey(0), b"bird")])
                await ingest.batch(timeout_s=0)
                await ingest.batch(timeout_s=0)
                await asyncio.sleep(6)
    logged = [(line["device"], line["reason"], line["suppressed"]) for line in lines]
    first = [("cam", "wrong_length", 0), ("cam", "unknown_label", 0), ("cam-2", "wrong_length", 0)]
    after_12_s = [("cam", "wrong_length", 198), ("cam", "unknown_label", 1), ("cam-2", "wrong_length", 1)]
    assert sorted(logged[:3]) == sorted(first)
    assert sorted((device, why) for device, why, _ in logged[3:]) == sorted((d, why) for d, why, _ in after_12_s)
    assert len(log.records(DEAD_LETTERS)) == 306
    assert ingest.num_rejected == 306
    for line in lines:
        assert line.keys() - {"event", "log_level"} == EVENTS["ingest.rejected"].fields.keys()


async def test_labels_that_devices_send_cannot_break_the_log_or_the_headers():
    log = MemoryLog()
    await log.append([from_device("cam", grey(0), "\n\x1b[31m\u202e".encode())])
    with structlog.testing.capture_logs() as (lines):
        await read_all(log)
    assert lines[0]["detail"].isprintable()
    assert reason(log.records(DEAD_LETTERS)[0]) == "unknown_label"


async def test_images_are_decoded_off_the_event_loop(monkeypatch):
    log = MemoryLog()
    await log.append([from_device("photo", photo("jpeg", seed)) for seed in range(100)])
    turns = 0

    async def tick():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    assert len(await read_all(log)) == 100
    ticking.cancel()
    assert turns > 100


async def test_a_cancelled_batch_is_delivered_again_to_the_next_reading():
    log = MemoryLog()
    await log.append([from_device("photo", photo("jpeg", seed)) for seed in range(100)])
    ingest = intake(log).ingest
    async with ingest.reading(await ingest.partitions.look(), {}, lambda _device, _note: True):
        batch = asyncio.create_task(ingest.batch(timeout_s=0))
        for _ in range(4):
            await asyncio.sleep(0)
        assert ingest.busy
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert not ingest.busy
    assert [each.offset for each in await read_all(log)] == list(range(100))


async def test_real_photographs_are_accepted():
    log = MemoryLog()
    paths = sorted(birds().glob("train/*/*.jpg"))[::20]
    assert paths
    await log.append([from_device("photo", path.read_bytes(), None) for path in paths])
    found = await read_all(log)
    assert [each.payload for each in found] == [path.read_bytes() for path in paths]


@pytest.mark.looptime
async def test_a_negative_timestamp_does_not_spoil_the_pack():
    """Kafka takes negative timestamps from a client; the archive would drop the whole pack for one."""
    log = MemoryLog()
    await log.append([dataclasses.replace(from_device("cam", grey(1)), timestamp_ms=-5), from_device("cam", grey(2))])
    intake_ = intake(log)
    await run_until(intake_.uplink, lambda: intake_.uplink.statistics().ingested_samples == 2)
    assert identities(archived(log)) == [("cam", 0, 0), ("cam", 0, 1)]


@pytest.mark.parametrize("flood", [grey(0), b"junk"], ids=["samples", "dead letters"])
async def test_a_device_that_floods_costs_the_others_a_turn_and_each_turn_few_writes(monkeypatch, flood):
    log, writes = MemoryLog(), 0
    append = log.append

    async def append_noted(messages, **options):
        nonlocal writes
        writes += 1
        return await append(messages, **options)

    await log.append([from_device("cam", flood)] * 20_000)
    await log.append([from_device("cam-2", grey(i)) for i in range(10)])
    monkeypatch.setattr(log, "append", append_noted)
    ingest = intake(log).ingest
    async with ingest.reading(await ingest.partitions.look(), {}, lambda _device, _note: True):
        turns = [[each.result for each in await ingest.batch(timeout_s=0)] for _ in range(2)]

    assert {each.device for each in turns[0]} == {"cam"}
    assert [each.offset for each in turns[1] if each.device == "cam-2"] == list(range(10))
    assert writes <= 2
