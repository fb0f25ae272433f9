"""From the devices' records to acknowledged packs: each sample exactly once, whatever happens."""

import asyncio
import contextlib
import dataclasses

import pytest
import structlog

from edged.adapters.memory.log import MemoryLog
from edged.domain import tensors
from edged.domain.place import Place
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import MAX_SAMPLES, Pack
from edged.domain.samples.written_to import WrittenTo, written_to
from edged.events import EVENTS
from edged.ports import Message, TopicPartition
from edged.services.ingest import uplink
from tests.support.intake import (
    DEAD_LETTERS,
    GREY,
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

FLOATS = TOPOLOGY.archive_topic("floats", "pi")


@pytest.fixture(autouse=True)
def lines():
    """The log's lines, each held to the published schema."""
    with structlog.testing.capture_logs() as captured:
        yield captured
    for line in captured:
        assert line.keys() - {"event", "log_level"} == EVENTS[line["event"]].fields.keys()


def num_archived(log, topic=GREY):
    return sum(len(pack.samples) for pack in archived(log, topic))


def offsets(pack):
    return {key: place.offset for key, place in pack.cursors.items()}


@pytest.mark.looptime
async def test_samples_reach_the_archive_topic_as_they_were_sent():
    log = MemoryLog()
    await log.append([from_device("cam", grey(1), b"dog"), from_device("cam", grey(2), None)])
    await run_until(intake(log).uplink, lambda: num_archived(log) == 2)
    (pack,) = archived(log)
    assert pack.stream == "grey"
    assert [(each.label, each.payload) for each in pack.samples] == [("dog", grey(1)), (None, grey(2))]
    assert offsets(pack) == {"cam/0": 2, "cam-2/0": 0}


@pytest.mark.looptime
async def test_a_lone_sample_waits_no_longer_than_the_linger():
    log = MemoryLog()
    task = asyncio.create_task(intake(log).uplink.run())
    await asyncio.sleep(10)
    await log.append([from_device("cam", grey(1))])
    await asyncio.sleep(0.51)
    assert num_archived(log) == 1
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_full_packs_do_not_linger():
    log = MemoryLog()
    uplink = intake(log).uplink
    await log.append([from_device("cam", grey(n)) for n in range(1000)])
    await run_until(uplink, lambda: num_archived(log) == 1000)
    assert [len(pack.samples) for pack in archived(log)] == [MAX_SAMPLES] * 3 + [1000 - 3 * MAX_SAMPLES]


def limit(log, topic, max_bytes):
    log.set(topic, "max.message.bytes", str(max_bytes))


@pytest.mark.looptime
@pytest.mark.parametrize("max_bytes", [1500, 4000, 12_000])
async def test_packs_too_large_for_their_topic_are_split(max_bytes):
    """Each sample is in one of the parts, in order, and a start after any of them misses and repeats nothing."""
    log = MemoryLog()
    limit(log, GREY, max_bytes)
    await log.append([from_device("cam", grey(n)) for n in range(700)])

    await run_until(intake(log).uplink, lambda: num_archived(log) == 700)

    found = archived(log)
    assert [offset for _, _, offset in identities(found)] == list(range(700))
    assert len(found) > 3
    assert [pack.cursors["cam/0"].offset for pack in found] == [pack.samples[-1].offset + 1 for pack in found]


@pytest.mark.looptime
async def test_a_sample_too_large_for_its_topic_alone_is_dead_lettered_and_the_others_arrive(lines):
    log = MemoryLog()
    topic = TOPOLOGY.archive_topic("photos", "pi")
    small, large = photo("jpeg"), photo("png")
    limit(log, topic, len(large))
    await log.append([from_device("photo", small), from_device("scan", large), from_device("photo", small)])

    one = intake(log)
    await run_until(one.uplink, lambda: num_archived(log, topic) == 2)

    assert identities(archived(log, topic)) == [("photo", 0, 0), ("photo", 0, 1)]
    (letter,) = log.records(DEAD_LETTERS)
    assert (letter.key, letter.value, reason(letter)) == (b"scan", large, "too_large_for_topic")
    assert log.committed_offsets["site.ingest.pi", TopicPartition("site.iot.scan")] == 1
    assert one.uplink.statistics().dead_lettered == 1
    assert [line["reason"] for line in lines if line["event"] == "ingest.rejected"] == ["too_large_for_topic"]


@pytest.mark.looptime
async def test_a_dead_letter_keeps_as_much_of_its_record_as_the_topic_takes():
    log = MemoryLog()
    limit(log, DEAD_LETTERS, 20_000)
    await log.append([from_device("cam", bytes(100_000)), from_device("cam", grey(1))])

    await run_until(intake(log).uplink, lambda: num_archived(log) == 1)

    (letter,) = log.records(DEAD_LETTERS)
    assert letter.value == bytes(16_384)


@pytest.mark.looptime
async def test_each_stream_has_its_own_packs_and_cursors():
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(5)])
    await log.append([from_device("meter", floats(n, 0), b"low") for n in range(3)])
    await run_until(intake(log).uplink, lambda: num_archived(log) == 5 and num_archived(log, FLOATS) == 3)
    assert offsets(archived(log, FLOATS)[-1]) == {"meter/0": 3}
    assert offsets(archived(log)[-1]) == {"cam/0": 5, "cam-2/0": 0}


@pytest.mark.looptime
async def test_a_run_of_dead_letters_is_not_read_twice():
    """They leave no pack, so only the committed offsets record them."""
    log = MemoryLog()
    await log.append([from_device("cam", grey(0)), *[from_device("cam", b"bad")] * 300])
    for _ in range(3):
        first = intake(log)
        await run_until(first.uplink, lambda: committed(log, "cam") == 301)
    assert len(log.records(DEAD_LETTERS)) == 300
    assert identities(archived(log)) == [("cam", 0, 0)]


def committed(log, device):
    return log.committed_offsets.get((TOPOLOGY.group("ingest", "pi"), TopicPartition(TOPOLOGY.device_topic(device))))


@pytest.mark.looptime
async def test_lost_committed_offsets_duplicate_nothing():
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    await run_until(intake(log).uplink, lambda: num_archived(log) == 10)
    log.commits.clear()
    await log.append([from_device("cam", grey(n)) for n in range(10, 15)])
    await run_until(intake(log).uplink, lambda: num_archived(log) >= 15)
    assert identities(archived(log)) == [("cam", 0, n) for n in range(15)]


@pytest.mark.looptime
async def test_after_an_upgrade_the_cursors_of_the_last_pack_count_without_a_commit(lines):
    """An edge of the version before may have been stopped between a pack and its commit."""
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    former = tensors.encode({}, {"edged": "pack/1", "stream": "grey", "cursors": '{"cam/0": 7, "cam-2/0": 0}'})
    await log.append([Message(GREY, former)])

    task = asyncio.create_task(intake(log).uplink.run())
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task])

    _, *sent = log.records(GREY)
    assert [offset for _, _, offset in identities(packs.decode(each.value) for each in sent)] == [7, 8, 9]
    assert [line for line in lines if line["event"] == "uplink.malformed"] == []


@pytest.mark.looptime
async def test_an_expired_archive_topic_leaves_the_committed_offsets():
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    await run_until(intake(log).uplink, lambda: committed(log, "cam") == 10)
    log.truncate(TopicPartition(GREY), 1)
    await log.append([from_device("cam-2", grey(0))])
    await run_until(intake(log).uplink, lambda: num_archived(log) == 1)
    (pack,) = archived(log)
    assert identities([pack]) == [("cam-2", 0, 0)]
    assert offsets(pack) == {"cam/0": 10, "cam-2/0": 1}


@pytest.mark.looptime
@pytest.mark.parametrize("foreign", [b"not a pack", packs.encode(Pack("floats", (), {"cam/0": Place(0)}))])
async def test_a_foreign_last_record_falls_back_to_the_committed_offsets(foreign, lines):
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    await run_until(intake(log).uplink, lambda: committed(log, "cam") == 10)
    await log.append([Message(GREY, foreign), from_device("cam", grey(10))])
    await run_until(intake(log).uplink, lambda: len(log.records(GREY)) == 3)
    assert [line["event"] for line in lines].count("uplink.malformed") == 1
    assert identities([packs.decode(log.records(GREY)[2].value)]) == [("cam", 0, 10)]


@pytest.mark.looptime
async def test_a_broker_that_is_away_at_start_is_waited_for():
    log = MemoryLog()
    await log.append([from_device("cam", grey(0))])
    log.unavailable = True
    task = asyncio.create_task(intake(log).uplink.run())
    await asyncio.sleep(100)
    assert not task.done()
    log.unavailable = False
    await asyncio.sleep(2)
    assert num_archived(log) == 1
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_an_outage_of_the_broker_loses_nothing():
    log = MemoryLog()
    started = intake(log)
    task = asyncio.create_task(started.uplink.run())
    for n in range(5):
        await asyncio.sleep(10)
        await log.append([from_device("cam", grey(n))])
        await asyncio.sleep(0.1 * n)
        log.unavailable = True
        await asyncio.sleep(20)
        assert started.uplink.progress().idle
        log.unavailable = False
    await asyncio.sleep(5)
    assert identities(archived(log)) == [("cam", 0, n) for n in range(5)]
    assert started.uplink.statistics().ingested_samples == 5
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_devices_and_partitions_may_come_later():
    log = MemoryLog()
    task = asyncio.create_task(intake(log).uplink.run())
    await asyncio.sleep(100)
    await log.append([from_device("cam", grey(0)), from_device("cam-2", grey(0))])
    await asyncio.sleep(2)
    await log.append([from_device("cam", grey(1), partition=2)])
    await asyncio.sleep(40)
    assert sorted(identities(archived(log))) == [("cam", 0, 0), ("cam", 2, 0), ("cam-2", 0, 0)]
    assert offsets(archived(log)[-1]) == {"cam/0": 1, "cam/1": 0, "cam/2": 1, "cam-2/0": 1}
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_a_device_that_changed_its_stream_resumes_at_its_cursor():
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    await run_until(intake(log).uplink, lambda: num_archived(log) == 10)
    log.commits.clear()
    moved = tuple(dataclasses.replace(each, stream="floats") if each.name == "cam" else each for each in TOPOLOGY.iot)
    topology = dataclasses.replace(TOPOLOGY, iot=moved)
    await log.append([from_device("cam", floats(0, 0), b"low"), from_device("cam-2", grey(0))])
    both = lambda: num_archived(log, FLOATS) >= 1 and num_archived(log) >= 11  # noqa: E731 - reads as a sentence
    await run_until(intake(log, topology).uplink, both)
    assert identities(archived(log, FLOATS)) == [("cam", 0, 10)]
    assert identities(archived(log))[10:] == [("cam-2", 0, 0)]


@pytest.mark.looptime
async def test_an_edge_without_devices_returns_at_once():
    log = MemoryLog()
    await intake(log, dataclasses.replace(TOPOLOGY, iot=())).uplink.run()


@pytest.mark.looptime
async def test_unchanged_offsets_are_committed_again_before_they_expire(monkeypatch):
    monkeypatch.setattr(uplink, "_RECOMMIT_S", 60)
    log = MemoryLog()
    await log.append([from_device("cam", grey(0))])
    task = asyncio.create_task(intake(log).uplink.run())
    await asyncio.sleep(10)
    log.commits.clear()
    await asyncio.sleep(61)
    assert committed(log, "cam") == 1
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_the_live_window_has_every_pack_at_its_offset():
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(300)])
    started = intake(log)
    await run_until(started.uplink, lambda: num_archived(log) == 300)
    restarted = intake(log)
    await log.append([from_device("cam", grey(n)) for n in range(300, 310)])
    await run_until(restarted.uplink, lambda: num_archived(log) == 310)
    for live, first in ((started.live, 0), (restarted.live, 2)):
        assert live.take_nowait(first) == (first, archived(log)[first])
    assert restarted.live.end() == len(archived(log)) == 3
    assert await restarted.live.take(0, timeout_s=1) == (0, archived(log)[0])


@pytest.mark.looptime
async def test_statistics_count_acknowledged_samples():
    log = MemoryLog()
    await log.append([*[from_device("cam", grey(n)) for n in range(10)], from_device("cam", b"bad")])
    started = intake(log)
    await run_until(started.uplink, lambda: committed(log, "cam") == 11)
    found = started.uplink.statistics()
    assert (found.ingested_samples, found.dead_lettered, found.lag_records) == (10, 1, 0)
    assert found.queue_bytes == started.live.num_bytes >= 60
    assert started.uplink.progress() == (12, True)


class Crash(BaseException):
    """The process ends here."""


class CrashingLog:
    """A log that crashes its user at the `at`-th point: before and after each call, and between appended messages."""

    def __init__(self, log, at, how):
        self._log, self._left, self._how = log, at, how

    def _point(self):
        self._left -= 1
        if self._left == -1:
            raise self._how

    async def append(self, messages, **options):
        offsets = []
        for message in messages:
            self._point()
            offsets += await self._log.append([message], **options)
        self._point()
        return offsets

    def __getattr__(self, name):
        method = getattr(self._log, name)

        async def call(*args, **kwargs):
            self._point()
            result = await method(*args, **kwargs)
            self._point()
            return result

        return call

    @contextlib.asynccontextmanager
    async def reader(self, positions, *, group=None, own=False):
        async with self._log.reader(positions, group=group, own=own) as reader:
            yield CrashingReader(reader, self)


class CrashingReader(CrashingLog):
    def __init__(self, reader, log):
        self._log, self._parent = reader, log
        self.lag, self.position = reader.lag, reader.position

    def _point(self):
        self._parent._point()


def sent():
    """Records of two streams and three partitions, some of them bad, and which of them are samples."""
    messages = [from_device("cam" if n % 3 else "cam-2", b"bad" if n % 50 == 7 else grey(n)) for n in range(300)]
    messages += [from_device("cam", grey(n), partition=1) for n in range(20)]
    messages += [from_device("meter", b"bad" if n == 4 else floats(n, n), b"low") for n in range(9)]
    return messages


async def all_done(log):
    """Run to the end with fresh objects, and check that nothing is lost and nothing is there twice."""
    started = intake(log)
    wanted = {"grey": 300 + 20 - 6, "floats": 8}
    await run_until(
        started.uplink,
        lambda: (
            started.ingest.lag_by_topic() == {}
            and num_archived(log) >= wanted["grey"]
            and num_archived(log, FLOATS) >= wanted["floats"]
            and committed(log, "meter") == 9
        ),
    )
    for stream, topic in (("grey", GREY), ("floats", FLOATS)):
        found = identities(archived(log, topic))
        assert len(found) == len(set(found)) == wanted[stream]
        for partition in {each[:2] for each in found}:
            offsets = [offset for *which, offset in found if tuple(which) == partition]
            assert offsets == sorted(offsets)
    letters = {
        (dict(each.headers)["device"], dict(each.headers)["partition"], dict(each.headers)["offset"])
        for each in log.records(DEAD_LETTERS)
    }
    assert len(letters) == 7


@pytest.mark.looptime
@pytest.mark.parametrize("how", [Crash, asyncio.CancelledError])
async def test_a_crash_at_any_step_loses_nothing_and_repeats_nothing(how):
    """One crash at each step in turn, and then one more at some step of the next run."""
    at = 0
    while await crashes(log := await filled(), at, how):
        await crashes(log, at * 7 % 40, how)
        await all_done(log)
        at += 1
    await all_done(log)
    assert at > 40


async def filled():
    log = MemoryLog()
    await log.append(sent())
    return log


async def crashes(log, at, how):
    """Whether a run on new objects reaches its `at`-th point, where it crashes, within some seconds."""
    try:
        await asyncio.wait_for(intake(CrashingLog(log, at, how)).uplink.run(), 5)
    except how:
        return True
    except TimeoutError:
        return False
    raise AssertionError("the uplink returned by itself")


@pytest.mark.looptime
async def test_a_stop_at_any_moment_loses_nothing_and_repeats_nothing():
    """Cancelled from outside at the loop's every turn, as a stop does."""
    for turns in range(0, 120, 3):
        log = await filled()
        task = asyncio.create_task(intake(log).uplink.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await all_done(log)


def sent_of(log, *gone):
    """(incarnation, offset) of all samples of the device cam in the archive topic, and in those that are gone."""
    kept = [*gone, *log.records(GREY)]
    return [(each.incarnation, each.offset) for record in kept for each in packs.decode(record.value).samples]


@pytest.mark.looptime
@pytest.mark.parametrize("keeps_commits", [True, False])
@pytest.mark.parametrize("count", [4, 30], ids=["shorter", "longer"])
@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize("has_ids", [True, False])
async def test_a_recreated_device_topic_is_read_from_its_beginning(lines, is_running, count, keeps_commits, has_ids):
    log = MemoryLog()
    log.has_topic_ids = has_ids
    topic = TOPOLOGY.device_topic("cam")
    task = asyncio.create_task(intake(log).uplink.run())
    await log.append([from_device("cam", grey(n % 200)) for n in range(10)])
    await asyncio.sleep(2)
    if not is_running:
        task.cancel()
        await asyncio.wait([task])
    commits = dict(log.commits)
    log.delete(topic)
    if keeps_commits:  # Kafka forgets them with the topic
        log.commits = commits
    await log.append([from_device("cam", grey(100 + n)) for n in range(count)])
    if not is_running:
        task = asyncio.create_task(intake(log).uplink.run())
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task])
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(intake(log).uplink.run(), 2)

    found = sent_of(log)
    (old, *_), *_, (new, _) = found
    assert old != new
    assert found == [(old, n) for n in range(10)] + [(new, n) for n in range(count)]
    assert [line["topic"] for line in lines if line["event"] == "kafka.another_log"] == [topic]


@pytest.mark.looptime
@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize("bad", [0, 3], ids=["samples alone", "dead letters, too"])
async def test_a_recreated_archive_topic_gets_again_what_the_devices_topics_still_have(lines, is_running, bad):
    """The packs in it may not have been archived; the archive leaves out what it has."""
    log = MemoryLog()
    task = asyncio.create_task(intake(log).uplink.run())
    for _ in range(3):
        await log.append([from_device("cam", grey(n)) for n in range(10)] + [from_device("cam", b"bad")] * bad)
        await asyncio.sleep(2)
    if not is_running:
        task.cancel()
        await asyncio.wait([task])
    before = sent_of(log)
    log.delete(GREY)
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    if not is_running:
        task = asyncio.create_task(intake(log).uplink.run())
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.wait([task])
    await run_until(intake(log).uplink, lambda: True)

    trusted = [record for record in log.records(GREY) if not written_to(record.headers).is_misplaced(record.offset)]
    found = [(each.incarnation, each.offset) for record in trusted for each in packs.decode(record.value).samples]
    assert len(found) == len(set(found)) == 40
    assert set(before) < set(found)
    assert [line["topic"] for line in lines if line["event"] == "uplink.another_log"] == [GREY] * is_running


@pytest.mark.looptime
async def test_a_recreated_archive_topic_is_noticed_without_news_of_a_device(lines):
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    task = asyncio.create_task(intake(log).uplink.run())
    await asyncio.sleep(2)
    log.delete(GREY)
    await asyncio.sleep(2 * uplink._CHECK_ENDS_S)
    task.cancel()
    await asyncio.wait([task])

    assert [offset for _, _, offset in identities(archived(log))] == list(range(10))
    assert [line["topic"] for line in lines if line["event"] == "uplink.another_log"] == [GREY]


@pytest.mark.looptime
async def test_an_edge_that_died_before_it_noticed_reads_the_devices_topics_again():
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    await run_until(intake(log).uplink, lambda: committed(log, "cam") == 10)
    log.delete(GREY)
    late = Pack("grey", (), {"cam/0": Place(10, "id-1", "id-1")})
    await log.append([Message(GREY, packs.encode(late), headers=(WrittenTo("gone", 1).header(),))])
    await run_until(intake(log).uplink, lambda: len(log.records(GREY)) == 2)

    assert identities([packs.decode(log.records(GREY)[1].value)]) == [("cam", 0, n) for n in range(10)]


@pytest.mark.looptime
async def test_a_mirror_of_the_log_is_read_on():
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    await run_until(intake(log).uplink, lambda: committed(log, "cam") == 10)
    for topic in (GREY, TOPOLOGY.device_topic("cam")):
        log.mirror(topic)
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    await run_until(intake(log).uplink, lambda: committed(log, "cam") == 20)

    names = {name for name, _ in sent_of(log)}
    assert len(names) == 1
    assert [offset for _, offset in sent_of(log)] == list(range(20))


@pytest.mark.looptime
async def test_a_partition_that_lost_its_records_and_kept_its_id_is_read_from_its_beginning(lines):
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(10)])
    await run_until(intake(log).uplink, lambda: committed(log, "cam") == 10)
    log.lose(TopicPartition(TOPOLOGY.device_topic("cam")))
    await log.append([from_device("cam", grey(50 + n)) for n in range(30)])
    await run_until(intake(log).uplink, lambda: committed(log, "cam") == 30)

    found = sent_of(log)
    assert [offset for _, offset in found] == [*range(10), *range(30)]
    assert len({name for name, _ in found}) == 2
