"""Every pack of every edge becomes part of a file, each sample once, whatever happens in between."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.parquet.retrying import RetryingArchive
from edged.aio import Backoff
from edged.domain.archive import snapshot as dataset
from edged.domain.archive.quarantine import Action
from edged.domain.archive.source_log import address_in_log
from edged.domain.place import Place
from edged.domain.samples import pack as packs
from edged.domain.samples.address import parse
from edged.domain.samples.border import MAX_CURSORS, Border
from edged.domain.samples.pack import Pack
from edged.domain.samples.written_to import WrittenTo
from edged.errors import ArchiveConflict, ArchiveFull, StorageError
from edged.ports import MAX_KEPT_RECORDS, Committed, Message, TopicPartition
from edged.services.archive import quarantine as archive_quarantine
from edged.services.archive.archiver import Archiver, ArchiverSettings, Source
from tests.support.archive_samples import BORDER, STREAM, pack, sample
from tests.support.properties import examples

GROUP = "site.archiver.vault"
PI_A = Source("fashion", "pi-a", "site.archive.fashion.pi-a")
PI_B = Source("fashion", "pi-b", "site.archive.fashion.pi-b")
TOPIC_A = TopicPartition(PI_A.topic)


class Bench:
    """A log, an archive and what connects them."""

    def __init__(self, store: MemoryArchive | None = None) -> None:
        self.log = MemoryLog()
        self.store = store or MemoryArchive()
        self.health = RecordingHealth()

    async def send(self, *sent: Pack | bytes, topic: str = PI_A.topic) -> None:
        values = [packs.encode(each) if isinstance(each, Pack) else each for each in sent]
        await self.log.append([Message(topic, value) for value in values])

    def archiver(self, sources: Sequence[Source] = (PI_A,), border: Border = BORDER, **settings: float) -> Archiver:
        archive = RetryingArchive(self.store, self.health, lambda _: Backoff(0.5, 0.5))
        fixed = ArchiverSettings(**settings)  # type: ignore[arg-type]
        return Archiver(self.log, archive, sources, GROUP, lambda: fixed, border=border)

    def archived(self, source: Source = PI_A) -> list[int]:
        """Device offsets of the archived samples, in the archive's order."""
        blocks = self.store.blocks(source.stream, source.edge)
        return [each.offset for offset in sorted(blocks) for each in blocks[offset].samples]


async def run_for(archiver: Archiver, seconds: float) -> None:
    """Run and cancel, as the app does."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(archiver.run(), seconds)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.looptime
async def test_a_file_is_written_when_its_oldest_pack_is_old_enough(bench, log_lines):
    await bench.send(pack(0), pack(4))
    task = asyncio.create_task(bench.archiver(flush_s=10).run())

    await asyncio.sleep(9)
    assert bench.archived() == []
    await asyncio.sleep(2)
    assert bench.archived() == list(range(8))

    (line,) = log_lines("archive.flushed")
    assert (line["source"], line["first_offset"], line["next_offset"], line["samples"]) == ("pi-a", 0, 2, 8)
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_a_file_is_written_when_enough_is_buffered(bench, log_lines):
    await bench.send(*(pack(first, 100) for first in range(0, 4000, 100)))

    await run_for(bench.archiver(flush_s=1000, flush_bytes=600 * 1000), 5)

    assert bench.archived() == list(range(4000))
    assert sum(line["files"] for line in log_lines("archive.flushed")) >= 3


@pytest.mark.looptime
async def test_files_are_told_of_at_intervals_all_sources_together_and_at_the_stop(bench, log_lines):
    """Not each by itself, as a line alone takes 64 kB of the archive node's SD card."""

    def told():
        lines = log_lines("archive.flushed")
        return [
            tuple(line[key] for key in ("source", "first_offset", "next_offset", "files", "samples")) for line in lines
        ]

    task = asyncio.create_task(bench.archiver((PI_A, PI_B), flush_s=1, log_s=60).run())
    for first in range(0, 12, 4):
        await bench.send(pack(first))
        await bench.send(pack(first, device="cam-09"), topic=PI_B.topic)
        await asyncio.sleep(10)
    assert told() == [("pi-a", 0, 1, 1, 4), ("pi-b", 0, 1, 1, 4)]

    await asyncio.sleep(40)
    assert told()[2:] == [("pi-a", 1, 3, 2, 8), ("pi-b", 1, 3, 2, 8)]

    await bench.send(pack(12))
    await asyncio.sleep(10)
    assert len(told()) == 4
    task.cancel()
    await asyncio.wait([task])
    assert told()[4:] == [("pi-a", 3, 4, 1, 4)]


@pytest.mark.looptime
async def test_buffers_stay_within_their_budget_with_any_number_of_edges(bench, monkeypatch):
    sources = [Source("fashion", f"pi-{i}", f"topic-{i}") for i in range(12)]
    for source in sources:
        await bench.send(*(pack(first, 100, device=source.edge) for first in range(0, 500, 100)), topic=source.topic)
    archiver = bench.archiver(sources, flush_s=1000, flush_bytes=100_000)
    peak, append = 0, bench.store.append

    def measure(*args):
        nonlocal peak
        peak = max(peak, archiver.statistics().queue_bytes)
        append(*args)

    monkeypatch.setattr(bench.store, "append", measure)
    await run_for(archiver, 5)

    a_poll = 16 * 100 * 600
    assert peak <= 2 * 100_000 + a_poll
    assert all(bench.archived(source) == list(range(500)) for source in sources)


@pytest.mark.looptime
async def test_offsets_are_committed_once_the_file_is_durable(bench):
    await bench.send(pack(0), pack(4))
    bench.store.failure = ArchiveFull("no space")
    task = asyncio.create_task(bench.archiver(flush_s=1).run())

    await asyncio.sleep(5)
    assert bench.log.committed_offsets == {}
    bench.store.failure = None
    await asyncio.sleep(5)
    assert bench.log.committed_offsets == {(GROUP, TOPIC_A): 2}
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_a_refusing_storage_degrades_and_is_recovered_from(bench):
    archiver = bench.archiver(flush_s=1, flush_bytes=100_000)
    task = asyncio.create_task(archiver.run())
    await bench.send(pack(0))
    await asyncio.sleep(0.5)
    bench.store.failure = ArchiveFull("no space")
    await bench.send(*(pack(first, 100) for first in range(4, 2004, 100)))
    await asyncio.sleep(60)
    steps = archiver.progress().steps

    assert bench.health.reasons == {"archive": "no space"}
    assert archiver.statistics().queue_bytes <= 16 * 100 * 600, "polling stops while nothing can be written"
    await asyncio.sleep(1)
    assert archiver.progress().steps > steps, "waiting is not hanging"

    bench.store.failure = None
    await asyncio.sleep(5)
    assert bench.health.history == [("degraded", "archive"), ("recovered", "archive")]
    assert bench.archived() == list(range(2004))
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_a_stop_writes_what_is_buffered(bench):
    await bench.send(pack(0), pack(4))
    await bench.send(pack(0, device="cam-09"), topic=PI_B.topic)

    await run_for(bench.archiver([PI_A, PI_B], flush_s=1000), 1)

    assert bench.archived(PI_A) == list(range(8))
    assert bench.archived(PI_B) == list(range(4))
    assert bench.log.committed_offsets == {(GROUP, TOPIC_A): 2, (GROUP, TopicPartition(PI_B.topic)): 1}


@pytest.mark.looptime
async def test_a_stop_writes_what_is_buffered_while_kafka_is_away(bench):
    await bench.send(pack(0))
    await bench.send(pack(0, device="cam-09"), topic=PI_B.topic)
    task = asyncio.create_task(bench.archiver([PI_A, PI_B], flush_s=1000, stop_s=10, poll_s=1).run())
    await asyncio.sleep(3)
    bench.log.unavailable = True
    stopped_at = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert bench.archived(PI_A) == bench.archived(PI_B) == list(range(4))
    assert asyncio.get_running_loop().time() - stopped_at < 2, "nothing is left that is worth the wait"


@pytest.mark.looptime
async def test_a_stop_ends_in_time_while_the_storage_refuses(bench):
    await bench.send(pack(0))
    task = asyncio.create_task(bench.archiver(flush_s=1000, stop_s=3).run())
    await asyncio.sleep(1)
    bench.store.failure = ArchiveFull("no space")
    stopped_at = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - stopped_at == pytest.approx(3, abs=0.1)

    bench.store.failure = None
    await run_for(bench.archiver(), 1)
    assert bench.archived() == list(range(4))


@pytest.mark.looptime
async def test_a_restart_resumes_at_the_archives_end_whatever_was_committed(bench):
    await bench.send(pack(0), pack(4))
    await run_for(bench.archiver(), 1)
    bench.log.commits[GROUP, TOPIC_A] = Committed(Place(0))
    await bench.send(pack(8))

    await run_for(bench.archiver(), 1)

    assert bench.archived() == list(range(12))
    assert bench.store.ends("fashion") == {"pi-a": 3}


@pytest.mark.looptime
@pytest.mark.parametrize(
    "value", [b"", b"not a pack", packs.encode(pack(0))[:-1], packs.encode(pack(0, stream="birds"))]
)
async def test_a_malformed_pack_becomes_an_empty_block(bench, log_lines, value):
    await bench.send(pack(0), value, pack(4))

    await run_for(bench.archiver(), 1)

    assert bench.archived() == list(range(8))
    assert [len(block.samples) for block in bench.store.blocks("fashion", "pi-a").values()] == [4, 0, 4]
    (line,) = log_lines("archive.rejected")
    assert (line["topic"], line["offset"], line["kept_as"]) == (PI_A.topic, 1, "fashion/pi-a/1 damaged")
    assert bench.store.kept == {("fashion", "pi-a", 1, "damaged"): value}
    assert bench.store.end("fashion", "pi-a").cursors == {"cam-01/0": 8}


@pytest.mark.looptime
async def test_a_pack_of_another_version_is_kept_in_the_log_and_holds_up_its_source_alone(bench):
    """As when the archive node was upgraded before all that its edges had sent was archived."""
    other = packs.encode(pack(4)).replace(packs.VERSION.encode(), b"pack/1")
    await bench.send(pack(0), other, pack(8))
    await bench.send(pack(0, device="cam-b"), topic=PI_B.topic)

    await run_for(bench.archiver([PI_A, PI_B], flush_s=1), 30)

    assert (bench.archived(PI_A), bench.archived(PI_B)) == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert bench.log.committed_offsets == {(GROUP, TOPIC_A): 1, (GROUP, TopicPartition(PI_B.topic)): 1}
    assert (
        "offset 1 of site.archive.fashion.pi-a holds a pack of another version"
        in bench.health.reasons["archive/fashion/pi-a"]
    )
    assert "`edged archive quarantine fashion/pi-a/1` passes this one" in bench.health.reasons["archive/fashion/pi-a"]


def quarantine(bench: Bench, *addresses: str, action: Action = "quarantine") -> None:
    """As the command does."""
    wanted = [parse(each) for each in addresses]
    list(archive_quarantine.apply(bench.store, action, wanted, by="eve", when_ms=0, edges=["pi-a", "pi-b"]))


LATER_PACK = packs.encode(pack(4)).replace(packs.VERSION.encode(), b"pack/3")


@pytest.mark.looptime
@pytest.mark.parametrize("is_running", [True, False])
async def test_a_pack_of_another_version_in_quarantine_is_passed_and_kept_aside(bench, is_running, log_lines):
    await bench.send(pack(0), LATER_PACK, pack(8))
    task = asyncio.create_task(bench.archiver(flush_s=1).run())
    await asyncio.sleep(5)
    assert bench.archived() == list(range(4))
    if not is_running:
        task.cancel()
        await asyncio.wait([task])

    quarantine(bench, "fashion/pi-a/1")
    if not is_running:
        task = asyncio.create_task(bench.archiver(flush_s=1).run())
    await asyncio.sleep(5)

    assert bench.archived() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert bench.store.kept == {("fashion", "pi-a", 1, "passed"): LATER_PACK}
    assert "archive/fashion/pi-a" not in bench.health.reasons
    (line,) = log_lines("archive.passed")
    assert (line["address"], line["kept_as"]) == ("fashion/pi-a/1", "fashion/pi-a/1 passed")
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_a_first_record_of_another_version_can_be_passed(bench):
    await bench.send(LATER_PACK, pack(8))
    quarantine(bench, "fashion/pi-a/0")
    await run_for(bench.archiver(flush_s=1), 5)
    assert bench.archived() == [8, 9, 10, 11]


@pytest.mark.looptime
async def test_what_does_not_fit_the_topology_is_passed_and_what_fits_can_be_released(bench):
    short = replace(sample(5), payload=b"short")
    await bench.send(Pack("fashion", (sample(4), short), {"cam-01/0": Place(6)}), pack(6))
    await run_for(bench.archiver(flush_s=1), 5)
    assert "`edged archive quarantine fashion/pi-a/0`" in bench.health.reasons["archive/fashion/pi-a"]

    quarantine(bench, "fashion/pi-a/0")
    await run_for(bench.archiver(flush_s=1), 5)

    assert bench.archived() == [4, 6, 7, 8, 9]
    assert bench.store.snapshot("fashion").quarantined.tolist() == [[0, 0, 1]]
    assert list(bench.store.kept) == [("fashion", "pi-a", 0, "passed")]
    quarantine(bench, "fashion/pi-a/0", action="release")
    assert bench.store.snapshot("fashion").quarantined.tolist() == []


@pytest.mark.looptime
async def test_no_passed_record_is_lost_for_those_that_are_kept_already(bench):
    await bench.send(*[LATER_PACK] * (MAX_KEPT_RECORDS + 1), pack(8))
    quarantine(bench, *(f"fashion/pi-a/{offset}" for offset in range(MAX_KEPT_RECORDS + 1)))
    await run_for(bench.archiver(flush_s=1), 5)
    assert bench.archived() == []
    assert "move them away" in bench.health.reasons["archive/fashion/pi-a"]

    bench.store.kept.clear()
    await run_for(bench.archiver(flush_s=1), 5)
    assert bench.archived() == [8, 9, 10, 11]


@pytest.mark.looptime
async def test_a_quarantine_that_is_taken_back_passes_nothing(bench):
    await bench.send(LATER_PACK, pack(8))
    quarantine(bench, "fashion/pi-a/0")
    quarantine(bench, "fashion/pi-a/0", action="release")
    await run_for(bench.archiver(flush_s=1), 5)
    assert (bench.archived(), bench.store.kept) == ([], {})


@pytest.mark.looptime
async def test_a_quarantine_that_cannot_be_read_passes_nothing(bench):
    await bench.send(LATER_PACK)
    quarantine(bench, "fashion/pi-a/0")
    later = Pack("fashion", (replace(sample(0), payload=b'{"edged": "quarantine/2"}'),))
    bench.store.append("fashion", "_quarantine", [(1, later)])
    await run_for(bench.archiver(flush_s=1), 5)
    assert bench.store.kept == {}
    assert "'quarantine/2', of another version" in bench.health.reasons["archive/fashion/pi-a"]
    assert bench.health.history == [("degraded", "archive/fashion/pi-a")]


@pytest.mark.looptime
async def test_samples_sent_twice_are_archived_once_also_after_a_restart(bench, log_lines):
    await bench.send(pack(0), pack(2))
    await run_for(bench.archiver(), 1)
    await bench.send(pack(0, 8))

    await run_for(bench.archiver(), 1)

    assert bench.archived() == list(range(8))
    assert [(line["offset"], line["samples"]) for line in log_lines("archive.duplicates")] == [(1, 2), (2, 6)]
    assert bench.store.snapshot("fashion").rows.tolist() == [4, 2, 2]


@pytest.mark.looptime
async def test_devices_do_not_hide_each_others_samples(bench):
    both = Pack("fashion", (sample(5), sample(0, device="cam-02")), {"cam-01/0": Place(6), "cam-02/0": Place(1)})
    await bench.send(pack(0, 5), both, pack(1, 2, device="cam-02"))

    await run_for(bench.archiver(), 1)

    assert bench.archived() == [0, 1, 2, 3, 4, 5, 0, 1, 2]


@pytest.mark.looptime
async def test_packs_that_the_log_deleted_are_a_known_gap(bench, log_lines):
    await bench.send(pack(0))
    await run_for(bench.archiver(), 1)
    await bench.send(pack(4), pack(8), pack(12))
    bench.log.truncate(TOPIC_A, 3)

    await run_for(bench.archiver(), 1)

    assert bench.archived() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert bench.store.gaps("fashion", "pi-a") == [(1, 3)]
    assert bench.store.empty("fashion", "pi-a") == []
    assert bench.store.ends("fashion") == {"pi-a": 4}
    (line,) = log_lines("archive.gap")
    assert (line["first_offset"], line["next_offset"]) == (1, 3)


@pytest.mark.looptime
async def test_the_flushed_range_includes_a_gap_before_its_first_pack(bench, log_lines):
    await bench.send(pack(0), pack(4), pack(8))
    bench.log.truncate(TOPIC_A, 2)

    await run_for(bench.archiver(), 1)

    (line,) = log_lines("archive.flushed")
    assert (line["first_offset"], line["next_offset"]) == (0, 3)


def of_log(incarnation: str, first: int, count: int) -> Pack:
    """A pack of a device's log of that name."""
    samples = tuple(replace(sample(first + i), incarnation=incarnation) for i in range(count))
    return Pack("fashion", samples, {"cam-01/0": Place(first + count, incarnation)})


@pytest.mark.looptime
@pytest.mark.parametrize("count", [1, 9], ids=["shorter", "longer"])
@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize("has_ids", [True, False])
async def test_an_edges_topic_that_was_recreated_continues_the_source(bench, count, is_running, has_ids, log_lines):
    bench.log.has_topic_ids = has_ids
    task = asyncio.create_task(bench.archiver(flush_s=1).run())
    await bench.send(*(of_log("a", i, 1) for i in range(5)))
    await asyncio.sleep(3)
    if not is_running:
        task.cancel()
        await asyncio.wait([task])
    bench.log.delete(PI_A.topic)
    await bench.send(*(of_log("b", i, 1) for i in range(count)))
    if not is_running:
        task = asyncio.create_task(bench.archiver(flush_s=1).run())
    await asyncio.sleep(3)
    await bench.send(of_log("a", 5, 1), of_log("b", 0, 1))
    await asyncio.sleep(3)
    task.cancel()
    await asyncio.wait([task])
    await run_for(bench.archiver(flush_s=1), 3)

    blocks = bench.store.blocks("fashion", "pi-a")
    assert list(blocks) == list(range(5 + count + 2))
    assert [(each.incarnation, each.offset) for pack in blocks.values() for each in pack.samples] == [
        *(("a", i) for i in range(5)),
        *(("b", i) for i in range(count)),
        ("a", 5),
    ]
    end = bench.store.end("fashion", "pi-a")
    assert (end.cursors, end.log.base, end.log.place.offset) == ({"cam-01/0/a": 6, "cam-01/0/b": count}, 5, count + 2)
    assert [line["topic"] for line in log_lines("kafka.another_log")] == [PI_A.topic]
    assert bench.health.history == []


@pytest.mark.looptime
async def test_packs_that_an_edge_wrote_for_the_former_log_are_left_to_be_sent_again(bench, log_lines):
    """Those before them were lost with it, and would count as archived."""
    task = asyncio.create_task(bench.archiver(flush_s=1).run())
    await bench.send(of_log("a", 0, 4))
    await asyncio.sleep(3)
    bench.log.delete(PI_A.topic)
    header = WrittenTo("its-log", 2).header()
    await bench.log.append([Message(PI_A.topic, packs.encode(of_log("a", 8, 4)), headers=(header,))])
    header = WrittenTo("new-log", 1).header()
    await bench.log.append([Message(PI_A.topic, packs.encode(of_log("a", 0, 12)), headers=(header,))])
    await asyncio.sleep(3)
    task.cancel()
    await asyncio.wait([task])

    assert bench.archived() == list(range(12))
    assert [line["offset"] for line in log_lines("archive.rejected")] == [0]


@pytest.mark.looptime
async def test_samples_are_held_out_by_the_name_that_their_edge_gave_its_log(bench):
    task = asyncio.create_task(bench.archiver(flush_s=1).run())
    for name in ("first", "second"):
        for i in range(3):
            header = WrittenTo(name, i).header()
            await bench.log.append([Message(PI_A.topic, packs.encode(of_log(name, 20 * i, 20)), headers=(header,))])
        await asyncio.sleep(3)
        bench.log.delete(PI_A.topic)
    task.cancel()
    await asyncio.wait([task])

    snapshot = bench.store.snapshot("fashion")
    assert snapshot.num_blocks == 6
    for block in range(6):
        address = address_in_log("pi-a", ("first", "second")[block // 3], block % 3)
        held_out = dataset.test_rows(*address, 20, 0.5)
        np.testing.assert_array_equal(snapshot.held_out_rows(block, 0.5), held_out)


@pytest.mark.looptime
async def test_a_source_goes_on_from_where_another_archiver_has_come_to(bench):
    task = asyncio.create_task(bench.archiver(flush_s=1).run())
    await bench.send(pack(0))
    await asyncio.sleep(0.5)
    bench.store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])

    await bench.send(pack(4), pack(8))
    await asyncio.sleep(5)

    assert bench.archived() == list(range(12))
    assert bench.health.history == [("degraded", "archive/fashion/pi-a"), ("recovered", "archive/fashion/pi-a")]
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
@pytest.mark.parametrize(
    "failure",
    [StorageError("denied"), ArchiveConflict("another writer"), OverflowError("2 to the 63rd"), RecursionError()],
)
@pytest.mark.parametrize("moment", ["at the start", "while it archives"])
async def test_a_source_that_cannot_be_archived_waits_alone_and_loses_nothing(bench, failure, moment):
    task = asyncio.create_task(bench.archiver([PI_A, PI_B], flush_s=1).run())
    if moment == "while it archives":
        await bench.send(pack(0))
        await asyncio.sleep(3)
    bench.store.failures["fashion", "pi-a"] = failure
    await bench.send(*(pack(first) for first in range(4 * bool(bench.archived()), 40, 4)))
    await bench.send(*(pack(first, device="cam-09") for first in range(0, 40, 4)), topic=PI_B.topic)
    await asyncio.sleep(10)

    assert bench.archived(PI_B) == list(range(40))
    assert bench.archived(PI_A) == list(range(4 if moment == "while it archives" else 0))
    assert list(bench.health.reasons) == ["archive/fashion/pi-a"]

    bench.store.failures.clear()
    await asyncio.sleep(10)
    assert bench.archived(PI_A) == list(range(40))
    assert bench.health.reasons == {}
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_sources_that_wait_hold_no_memory(bench):
    bench.store.failures["fashion", "pi-a"] = StorageError("denied")
    archiver = bench.archiver([PI_A, PI_B], flush_s=1)
    task = asyncio.create_task(archiver.run())
    await bench.send(*(pack(first, 100) for first in range(0, 4000, 100)))
    await asyncio.sleep(10)

    assert archiver.statistics().queue_bytes == 0
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_a_damaged_newest_file_is_archived_again_from_the_log_and_kept(bench, log_lines):
    await archive_in_two_files(bench)
    bench.store.damaged.add(("fashion", "pi-a", 1))
    await bench.send(pack(8))
    await bench.send(pack(0, device="cam-09"), topic=PI_B.topic)

    await run_for(bench.archiver([PI_A, PI_B]), 5)

    assert bench.archived() == list(range(12))
    assert bench.archived(PI_B) == list(range(4))
    assert [(file.first, file.next) for file in bench.store.aside] == [(1, 2)]
    (line,) = log_lines("archive.damaged")
    assert (line["source"], line["first_offset"], line["next_offset"], line["archived_again"]) == ("pi-a", 1, 2, True)


@pytest.mark.looptime
async def test_behind_a_damaged_newest_file_that_the_log_has_deleted_the_source_continues(bench, log_lines):
    await archive_in_two_files(bench)
    bench.store.damaged.add(("fashion", "pi-a", 1))
    bench.log.truncate(TOPIC_A, 2)
    await bench.send(pack(8))

    await run_for(bench.archiver(), 5)

    assert bench.store.aside == []
    assert sorted(bench.store.blocks("fashion", "pi-a")) == [0, 1, 2]
    assert bench.archived() == list(range(12))
    assert [line["archived_again"] for line in log_lines("archive.damaged")] == [False]


@pytest.mark.looptime
async def test_cursors_of_a_damaged_file_are_learnt_from_what_the_log_still_has(bench, log_lines):
    """What a dead process sends again behind it is left out, as far as anybody can know."""
    await bench.send(pack(0))
    await run_for(bench.archiver(), 1)
    await bench.send(pack(4), pack(8))
    await run_for(bench.archiver(), 1)
    bench.store.damaged.add(("fashion", "pi-a", 1))
    bench.log.truncate(TOPIC_A, 2)
    await bench.send(pack(10, 4))

    await run_for(bench.archiver(), 5)

    assert bench.archived() == list(range(14))
    assert [line["samples"] for line in log_lines("archive.duplicates")] == [2]


async def archive_in_two_files(bench: Bench) -> None:
    for first in (0, 4):
        await bench.send(pack(first))
        await run_for(bench.archiver(), 1)


@pytest.mark.looptime
async def test_a_source_that_sends_only_junk_is_told_in_one_line_and_holds_nobody_up(bench, log_lines):
    await bench.send(*[b"junk"] * 500)
    await bench.send(pack(0, device="cam-09"), topic=PI_B.topic)

    await run_for(bench.archiver([PI_A, PI_B]), 5)

    assert bench.archived(PI_B) == list(range(4))
    assert len(log_lines("archive.rejected")) == 1
    assert bench.store.end("fashion", "pi-a").next_offset == 500
    assert len(bench.store.kept) == MAX_KEPT_RECORDS


@pytest.mark.looptime
async def test_a_source_that_is_resumed_while_the_others_are_written_is_read_from_its_end_again(bench):
    """Its reader is beyond that by then, and what lies between would be taken for offsets without a record."""

    refusals = [StorageError("refused")]

    class RefusingOnce(MemoryArchive):
        def append(self, stream, source, *args, **kwargs):
            if source == "pi-a" and refusals:
                raise refusals.pop()
            super().append(stream, source, *args, **kwargs)

    bench = Bench(RefusingOnce())
    archive = RetryingArchive(bench.store, bench.health, lambda _: Backoff(0.0, 0.0))
    settings = ArchiverSettings(flush_s=1)
    archiver = Archiver(bench.log, archive, (PI_A, PI_B), GROUP, lambda: settings, border=BORDER)
    await bench.send(pack(0), pack(4))
    await bench.send(pack(0, device="cam-09"), topic=PI_B.topic)

    await run_for(archiver, 10)

    assert bench.archived() == list(range(8))
    assert bench.store.gaps("fashion", "pi-a") == []


@pytest.mark.looptime
async def test_statistics_count_archived_and_waiting_samples(bench):
    archiver = bench.archiver(flush_s=1)
    await bench.send(pack(0), pack(4))

    await run_for(archiver, 5)

    assert archiver.statistics().archived_samples == 8
    assert archiver.statistics().lag_records == 0
    assert archiver.statistics().queue_bytes == 0


class Stop(BaseException):
    """The machine stops here."""


class Crashing(MemoryArchive):
    """Stops the machine before or after the file is durable, at the appends given."""

    def __init__(self, crashes: dict[int, str]) -> None:
        super().__init__()
        self.crashes = crashes
        self.appends = 0

    def append(self, *args, **kwargs):
        self.appends += 1
        moment = self.crashes.get(self.appends)
        if moment == "before":
            raise Stop
        super().append(*args, **kwargs)
        if moment == "after":
            raise Stop


@examples(60)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8)), min_size=1, max_size=12),
    crashes=st.dictionaries(st.integers(1, 8), st.sampled_from(["before", "after"])),
    files_bytes=st.integers(1, 20_000),
    data=st.data(),
)
def test_each_sample_is_archived_exactly_once_despite_duplicates_and_stops(ranges, crashes, files_bytes, data):
    """Packs overlap those before them, the archiver crashes around its writes and is started again."""
    bench_of = Crashing(crashes)

    async def scenario() -> list[int]:
        bench = Bench(bench_of)
        sent = 0
        for back, length in ranges:
            first = max(0, sent - back)
            sent = max(sent, first + length)
            await bench.send(pack(first, length))
            if data.draw(st.booleans()):
                with contextlib.suppress(Stop):
                    await run_until_read(bench, files_bytes)
        for _ in range(len(crashes) + 1):
            with contextlib.suppress(Stop):
                await run_until_read(bench, files_bytes)
        assert bench.archived() == list(range(sent))
        assert bench.store.ends("fashion") == {"pi-a": len(ranges)}
        return bench.archived()

    asyncio.run(scenario())


async def run_until_read(bench: Bench, flush_bytes: int) -> None:
    """Run the archiver until it has read the topic, then stop it."""
    archiver = bench.archiver(flush_bytes=flush_bytes, flush_s=1000)
    task = asyncio.create_task(archiver.run())
    while not (task.done() or (archiver.progress().idle and not archiver.statistics().lag_records)):  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.looptime
async def test_what_the_border_refuses_is_left_out_by_its_address_and_the_archive_stays_readable(bench, log_lines):
    bad = (
        replace(sample(3), offset=(1 << 63) - 1),
        replace(sample(4), payload=b""),
        sample(5, label="x" * 257),
        sample(0, device="no/name"),
    )
    await bench.send(Pack("fashion", (sample(2), *bad, sample(6)), {"cam-01/0": Place(7)}), pack(7))
    archiver = bench.archiver()

    await run_for(archiver, 1)

    assert bench.archived() == [2, 6, 7, 8, 9, 10]
    assert bench.store.end("fashion", "pi-a").cursors == {"cam-01/0": 11}
    (line,) = log_lines("archive.refused")
    assert (line["address"], line["device"]) == ("fashion/pi-a/0/1", f"fashion/@cam-01/0/{(1 << 63) - 1}")
    assert (line["samples"], line["reasons"]) == (
        4,
        {"out_of_range": 1, "empty": 1, "bad_label": 1, "bad_device": 1},
    )
    assert archiver.statistics().refused_samples == 4


@pytest.mark.looptime
async def test_labels_that_the_archive_node_does_not_know_yet_are_archived_and_told(bench, log_lines):
    sent = Pack("fashion", (sample(0), sample(1, label="slipper"), sample(2, label="sandal")), {"cam-01/0": Place(3)})
    await bench.send(sent)

    await run_for(bench.archiver(), 1)

    assert bench.store.blocks("fashion", "pi-a") == {0: sent}
    (line,) = log_lines("archive.unknown_label")
    assert (line["address"], line["label"], line["samples"]) == ("fashion/pi-a/0/1", "slipper", 2)
    assert bench.health.history == []


LARGER = replace(STREAM, shape=(50,))
GHOSTS = {f"ghost-{number}/0": Place(1) for number in range(MAX_CURSORS)}


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("unfit", "before", "corrected", "said"),
    [
        (
            replace(sample(0), device="cam-09"),
            {},
            Border(BORDER.streams, dict.fromkeys(BORDER.edge_of, "pi-a")),
            "foreign_device, cam-09 is a device of pi-b, not of pi-a",
        ),
        (
            replace(sample(0, device="cam-02"), payload=bytes(50)),
            {},
            Border({"fashion": LARGER}, BORDER.edge_of),
            "wrong_length, 50 bytes; a sample has 48",
        ),
        (
            sample(0, device="cam-03"),
            GHOSTS,
            Border(BORDER.streams, {**BORDER.edge_of, "cam-03": "pi-a"}),
            "too_many_devices, 4096 cursors, and cam-03 is in no topology",
        ),
    ],
    ids=["of another edge", "of another shape", "of too many devices"],
)
async def test_a_source_waits_at_what_another_topology_might_accept_and_loses_none_of_it(
    bench, unfit, before, corrected, said
):
    """Were it left out, its pack would count as archived, and might be deleted from the log."""
    first = pack(0)
    archiver = bench.archiver([PI_A, PI_B], flush_s=30)
    task = asyncio.create_task(archiver.run())
    await bench.send(replace(first, cursors=first.cursors | before))
    await asyncio.sleep(2)
    await bench.send(Pack("fashion", (unfit,)), pack(4))
    await bench.send(*(pack(each, device="cam-09") for each in range(0, 40, 4)), topic=PI_B.topic)
    await asyncio.sleep(65)

    assert (bench.archived(), bench.archived(PI_B)) == ([0, 1, 2, 3], list(range(40)))
    reason = bench.health.reasons["archive/fashion/pi-a"]
    assert reason.startswith(
        f"fashion/pi-a/1/0 (fashion/@{unfit.device}/0/0) does not fit this node's topology: {said}"
    )
    assert f"from offset 1 of {PI_A.topic} on: correct the topology" in reason
    assert bench.health.history == [("degraded", "archive/fashion/pi-a")], "told once"
    assert TOPIC_A not in archiver.durable(), "nothing is deleted behind it"
    task.cancel()
    await asyncio.wait([task])

    await run_for(bench.archiver([PI_A, PI_B], border=corrected), 5)
    assert bench.store.blocks("fashion", "pi-a")[1].samples == (unfit,)


@pytest.mark.looptime
async def test_a_source_goes_on_behind_what_somebody_has_deleted_from_its_topic(bench):
    await bench.send(pack(0), pack(0, device="cam-09"), pack(4))
    task = asyncio.create_task(bench.archiver([PI_A, PI_B]).run())
    await asyncio.sleep(30)
    assert list(bench.health.reasons) == ["archive/fashion/pi-a"]

    await bench.log.trim({TOPIC_A: 2})
    await asyncio.sleep(120)

    assert bench.archived() == list(range(8))
    assert bench.store.gaps("fashion", "pi-a") == [(1, 2)]
    assert bench.health.reasons == {}
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_a_source_does_not_wait_at_a_duplicate(bench):
    """A device has moved to another edge, and the former one sends again what is archived."""
    moved = Border(BORDER.streams, {**BORDER.edge_of, "cam-01": "pi-b"})
    await bench.send(pack(0))
    await run_for(bench.archiver(), 1)
    await bench.send(pack(0), pack(0, device="cam-02"))

    await run_for(bench.archiver(border=moved), 1)

    assert bench.archived() == [0, 1, 2, 3] * 2
    assert bench.health.history == []


@pytest.mark.looptime
async def test_lines_about_a_source_full_of_refused_samples_are_throttled_and_all_are_counted(bench, log_lines):
    await bench.send(*(Pack("fashion", (replace(sample(i), payload=b""),)) for i in range(50)), pack(50))
    await bench.send(Pack("fashion", (replace(sample(0), payload=b""),)), topic=PI_B.topic)
    archiver = bench.archiver([PI_A, PI_B])

    await run_for(archiver, 1)

    assert bench.archived() == [50, 51, 52, 53]
    assert [line["address"] for line in log_lines("archive.refused")] == ["fashion/pi-a/0/0", "fashion/pi-b/0/0"]
    assert archiver.statistics().refused_samples == 51
