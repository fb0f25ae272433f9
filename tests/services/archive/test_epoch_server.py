"""Edges get exactly the samples that they ask for, in turn, and bad requests harm nobody."""

import asyncio
import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.domain.archive import protocol
from edged.domain.archive.protocol import Part, SamplesPart, SamplesRequest, SnapshotPart, SnapshotRequest
from edged.domain.archive.snapshot import BlockRef
from edged.domain.place import Place
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.errors import ArchiveUnavailable
from edged.ports import Committed, Message, TopicPartition
from edged.services.archive.epoch_server import EpochServer
from edged.services.archive.reply import BLOCKS_PER_TURN
from tests.support.archive_samples import BORDER, pack
from tests.support.bad_tenants import request_for_absent_blocks
from tests.support.properties import examples

GROUP = "site.epoch_server.vault"
LARGE = b"\xff\xd8\xff".ljust(50_000)
REQUESTS = TopicPartition("site.archive.requests")


def samples_of(name: str, wants: dict[BlockRef, list[int]], edge: str = "pi-a") -> SamplesRequest:
    rows = tuple(np.array(rows, np.uint16) for rows in wants.values())
    return SamplesRequest(name, edge, "fashion", tuple(wants), rows)


class Bench:
    """A log, an archive and a server between them."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.store = MemoryArchive()
        self.health = RecordingHealth()

    async def ask(self, *requests: protocol.Request | bytes) -> None:
        values = [each if isinstance(each, bytes) else protocol.encode_request(each) for each in requests]
        await self.log.append([Message(REQUESTS.topic, value) for value in values])

    async def serve(self, seconds: float = 1.0) -> EpochServer:
        server = EpochServer(
            self.log,
            self.store,
            self.health,
            border=BORDER,
            edges=["pi-a", "pi-b"],
            requests_topic=REQUESTS.topic,
            epochs_topic="site.epochs.{}".format,
            group=GROUP,
            poll_s=0.1,
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.run(), seconds)
        return server

    def answers(self, edge: str = "pi-a") -> list[Part]:
        return [protocol.decode_part(record.value) for record in self.log.records(f"site.epochs.{edge}")]

    def samples(self) -> list[SamplesPart]:
        return [part for part in self.answers() if isinstance(part, SamplesPart)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def payload_at(parts: list[SamplesPart]) -> dict[int, bytes]:
    pairs = [pair for part in parts for pair in zip(part.position.tolist(), part.payloads, strict=True)]
    assert len(dict(pairs)) == len(pairs), "no position is answered twice"
    return dict(pairs)


@pytest.mark.looptime
async def test_a_snapshot_is_answered_with_the_blocks(bench):
    bench.store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4, 2))])
    await bench.ask(SnapshotRequest("r-1", "pi-a", "fashion"), SnapshotRequest("r-2", "pi-a", "fashion", {"pi-a": 1}))

    await bench.serve()

    whole, first = (part for part in bench.answers() if isinstance(part, SnapshotPart))
    assert (whole.request, whole.last, whole.snapshot.rows.tolist()) == ("r-1", True, [4, 2])
    assert (first.request, first.last, first.snapshot.rows.tolist()) == ("r-2", True, [4])


@examples(50)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 7), st.sets(st.integers(0, 9), min_size=1, max_size=8)), max_size=10),
    st.sets(st.integers(0, 5), max_size=2),
)
def test_exactly_the_requested_samples_come_each_at_its_position(block_sizes, entries, unreadable):
    """Blocks named twice, rows and blocks that do not exist, and unreadable blocks included."""
    bench_blocks = [pack(100 * offset, size) for offset, size in enumerate(block_sizes)]
    refs = tuple(BlockRef("pi-a", offset) for offset, _ in entries)
    rows = tuple(np.array(sorted(rows), np.uint16) for _, rows in entries)

    async def scenario() -> list[SamplesPart]:
        bench = Bench()
        bench.store.append("fashion", "pi-a", list(enumerate(bench_blocks)))
        bench.store.unreadable = {BlockRef("pi-a", offset) for offset in unreadable}
        await bench.ask(SamplesRequest("r-1", "pi-a", "fashion", refs, rows))
        task = asyncio.create_task(bench.serve(60))
        while not bench.answers() or not bench.answers()[-1].last:  # noqa: ASYNC110 - the fake has no event
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return bench.samples()

    parts = asyncio.run(scenario())
    wanted = [(offset, row) for offset, rows in entries for row in sorted(rows)]
    expected = {
        position: bench_blocks[offset].samples[row].payload
        for position, (offset, row) in enumerate(wanted)
        if offset < len(bench_blocks) and row < len(bench_blocks[offset].samples) and offset not in unreadable
    }
    assert payload_at(parts) == expected
    missing = [position for part in parts for position in part.missing.tolist()]
    assert sorted(missing) == sorted(set(range(len(wanted))) - expected.keys())
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]


@pytest.mark.looptime
async def test_labels_and_codecs_come_with_the_samples(bench):
    samples = (Sample("cam", 0, 0, 0, None, "jpeg", LARGE), Sample("cam", 0, 1, 0, "boot", "raw", bytes(48)))
    bench.store.append("fashion", "pi-a", [(0, Pack("fashion", samples))])
    await bench.ask(samples_of("r-1", {BlockRef("pi-a", 0): [0, 1]}))

    await bench.serve()

    (part,) = bench.samples()
    assert (part.labels, part.codecs, part.payloads) == ((None, "boot"), ("jpeg", "raw"), (LARGE, bytes(48)))


@pytest.mark.looptime
async def test_a_large_reply_comes_in_numbered_parts_and_reads_each_block_once(bench, monkeypatch, log_lines):
    blocks = [
        (offset, Pack("fashion", tuple(Sample("cam", 0, i, 0, None, "jpeg", LARGE) for i in range(10))))
        for offset in range(12)
    ]
    bench.store.append("fashion", "pi-a", blocks)
    await bench.ask(samples_of("r-1", {BlockRef("pi-a", offset): list(range(10)) for offset in reversed(range(12))}))
    read, really_read = [], bench.store.read_each

    def read_noted(stream, refs):
        for ref, block in really_read(stream, refs):
            read.append(ref.offset)
            yield ref, block

    monkeypatch.setattr(bench.store, "read_each", read_noted)
    await bench.serve()

    parts = bench.samples()
    assert [part.part for part in parts] == list(range(len(parts)))
    assert len(parts) > 8, "more than one turn"
    assert sum(len(part.position) for part in parts) == 120
    assert read == list(range(12))
    (line,) = log_lines("archive.served")
    assert (line["samples"], line["missing"], line["parts"]) == (120, 0, len(parts))


@pytest.mark.looptime
async def test_edges_take_turns(bench):
    blocks = [
        (offset, Pack("fashion", tuple(Sample("cam", 0, i, 0, None, "jpeg", LARGE) for i in range(10))))
        for offset in range(40)
    ]
    bench.store.append("fashion", "pi-a", blocks)
    large = {BlockRef("pi-a", offset): list(range(10)) for offset in range(40)}
    order: list[tuple[str, str]] = []
    append = bench.log.append

    async def append_noted(messages, **options):
        sent = [message for message in messages if message.topic != REQUESTS.topic]
        order.extend((message.topic, protocol.decode_part(message.value).request) for message in sent)
        return await append(messages, **options)

    bench.log.append = append_noted
    await bench.ask(samples_of("long", large), samples_of("long-2", large), samples_of("short", {}, edge="pi-b"))

    await bench.serve(5)

    assert order.index(("site.epochs.pi-b", "short")) == 8, "after one turn of the first edge"
    assert [request for _, request in order].index("long-2") > 8
    assert len(bench.answers()) == 2 * 40


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"junk", "8 bytes"),
        (protocol.encode_request(SnapshotRequest("r", "pi-x", "fashion")), "'pi-x' is no edge"),
        (protocol.encode_request(SnapshotRequest("r", "pi-a", "cats")), "'cats' is no stream"),
        (protocol.encode_request(samples_of("r", {BlockRef("pi-a", 0): []})), "do not add up"),
    ],
)
async def test_a_bad_request_is_dropped_and_the_next_one_served(bench, log_lines, bad, reason):
    await bench.ask(bad, SnapshotRequest("r-2", "pi-a", "fashion"))

    await bench.serve()

    assert [part.request for part in bench.answers()] == ["r-2"]
    (line,) = log_lines("archive.bad_request")
    assert line["offset"] == 0
    assert reason in line["reason"]


@pytest.mark.looptime
async def test_requests_beyond_the_queues_limit_are_dropped(bench, log_lines):
    await bench.ask(*(samples_of(f"r-{i}", {}) for i in range(12)))

    await bench.serve()

    assert [part.request for part in bench.answers()] == [f"r-{i}" for i in range(8)]
    (line,) = log_lines("archive.bad_request")
    assert (line["edge"], line["offset"]) == ("pi-a", 8)


@pytest.mark.looptime
async def test_a_request_repeated_before_its_turn_is_served_once(bench):
    await bench.ask(*[SnapshotRequest("r-1", "pi-a", "fashion")] * 3)

    await bench.serve()

    assert len(bench.answers()) == 1


@pytest.mark.looptime
async def test_requests_sent_while_the_server_was_down_are_served(bench):
    await bench.ask(SnapshotRequest("before the first start", "pi-a", "fashion"))
    await bench.serve()
    await bench.ask(SnapshotRequest("between", "pi-a", "fashion"))
    await bench.serve()

    assert [part.request for part in bench.answers()] == ["before the first start", "between"]
    assert bench.log.committed_offsets == {(GROUP, REQUESTS): 2}


@pytest.mark.looptime
async def test_an_unavailable_storage_leaves_the_request_unanswered_and_degrades(bench, log_lines):
    bench.store.append("fashion", "pi-a", [(0, pack(0))])
    bench.store.failure = ArchiveUnavailable("no route")
    await bench.ask(samples_of("r-1", {BlockRef("pi-a", 0): [0]}), SnapshotRequest("r-2", "pi-a", "fashion"))
    await bench.serve()

    assert bench.answers() == []
    assert [line["request"] for line in log_lines("archive.unanswered")] == ["r-1"]
    assert bench.health.reasons == {"archive_read": "no route"}

    bench.store.failure = None
    await bench.ask(samples_of("r-3", {BlockRef("pi-a", 0): [0]}))
    await bench.serve()
    assert [part.request for part in bench.answers()] == ["r-3"]
    assert bench.health.reasons == {}


@pytest.mark.looptime
async def test_a_recreated_topic_is_read_from_its_beginning(bench):
    bench.log.commits[GROUP, REQUESTS] = Committed(Place(1000))
    await bench.ask(SnapshotRequest("r-1", "pi-a", "fashion"))

    server = await bench.serve()

    assert len(bench.answers()) == 1
    assert server.progress().steps > 0


@pytest.mark.looptime
async def test_what_an_older_archive_holds_and_the_border_refuses_is_missing_and_named(bench, log_lines):
    good, bad = pack(0, 2).samples, Sample("cam-01", 0, 9, 0, "boot", "raw", b"of another shape")
    bench.store.append("fashion", "pi-a", [(0, Pack("fashion", (good[0], bad, good[1])))])
    await bench.ask(samples_of("r-1", {BlockRef("pi-a", 0): [0, 1, 2]}))

    server = await bench.serve()

    (part,) = bench.samples()
    assert (part.position.tolist(), part.missing.tolist()) == ([0, 2], [1])
    (line,) = log_lines("archive.refused")
    assert (line["address"], line["device"]) == ("fashion/pi-a/0/1", "fashion/@cam-01/0/9")
    assert line["reasons"] == {"wrong_length": 1}
    assert server.statistics().refused_samples == 1


@pytest.mark.looptime
async def test_a_request_for_20000_absent_blocks_costs_the_other_edges_one_turn_at_a_time(bench, log_lines):
    bench.store.append("fashion", "pi-a", [(0, pack(0))])
    events: list[str] = []
    append, read_each = bench.log.append, bench.store.read_each

    async def append_noted(messages, **options):
        events.extend(protocol.decode_part(each.value).request for each in messages if each.topic != REQUESTS.topic)
        return await append(messages, **options)

    def read_noted(stream, refs):
        for each in read_each(stream, refs):
            events.append("block")
            yield each

    bench.log.append, bench.store.read_each = append_noted, read_noted
    await bench.ask(request_for_absent_blocks("pi-a", 20_000))
    for i in range(3):
        await bench.ask(SnapshotRequest(f"s-{i}", "pi-b", "fashion"))

    await bench.serve(60)

    turns = [events[: events.index(f"s-{i}")].count("block") for i in range(3)]
    assert turns == [BLOCKS_PER_TURN, 2 * BLOCKS_PER_TURN, 3 * BLOCKS_PER_TURN]
    assert events.count("block") == 20_000
    missing = [position for part in bench.samples() for position in part.missing.tolist()]
    assert sorted(missing) == list(range(20_000))
    assert bench.samples()[-1].last
    (line,) = log_lines("archive.absent")
    assert (line["edge"], line["blocks"], line["source"], line["offset"]) == ("pi-a", 20_000, "pi-a", 1 << 40)
    assert log_lines("archive.unreadable") == []


@pytest.mark.looptime
async def test_a_slow_storage_ends_a_turn_by_time(bench, monkeypatch):
    bench.store.append("fashion", "pi-a", [(offset, pack(4 * offset)) for offset in range(40)])
    loop, now_s, read = asyncio.get_running_loop(), 0.0, []
    read_each = bench.store.read_each
    order: list[tuple[str, int]] = []

    def read_slowly(stream, refs):
        nonlocal now_s
        for each in read_each(stream, refs):
            now_s += 0.2
            read.append(each[0])
            yield each

    async def append_noted(messages, **options):
        order.extend((message.topic, len(read)) for message in messages)
        return await append(messages, **options)

    bench.store.read_each = read_slowly
    await bench.ask(samples_of("slow", {BlockRef("pi-a", offset): [0] for offset in range(40)}))
    await bench.ask(samples_of("short", {}, edge="pi-b"))
    append, bench.log.append = bench.log.append, append_noted
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + now_s)
    await bench.serve(20)

    assert order[0] == ("site.epochs.pi-b", 3), "0.5 s are over after the third block"
    assert [part.request for part in bench.samples()] == ["slow"]


@pytest.mark.looptime
async def test_no_block_is_read_or_held_while_it_is_another_edges_turn(bench):
    blocks = [
        (offset, Pack("fashion", tuple(Sample("cam", 0, i, 0, None, "jpeg", LARGE) for i in range(10))))
        for offset in range(60)
    ]
    bench.store.append("fashion", "pi-a", blocks)
    append, read_each = bench.log.append, bench.store.read_each
    asked, is_open, during_turns_of_b = [], False, []

    def read_noted(stream, refs):
        nonlocal is_open
        asked.append(len(refs))
        is_open = True
        try:
            yield from read_each(stream, refs)
        finally:
            is_open = False

    async def append_noted(messages, **options):
        if any(message.topic == "site.epochs.pi-b" for message in messages):
            during_turns_of_b.append(is_open)
        return await append(messages, **options)

    bench.log.append, bench.store.read_each = append_noted, read_noted
    await bench.ask(samples_of("long", {BlockRef("pi-a", offset): list(range(10)) for offset in range(60)}))
    for i in range(8):
        await bench.ask(samples_of(f"s-{i}", {}, edge="pi-b"))

    await bench.serve(5)

    assert during_turns_of_b == [False] * 8
    assert sum(asked) <= 60 + len(asked), "about as many as a turn sends"


@pytest.mark.looptime
@pytest.mark.parametrize("failure", [OverflowError("2 to the 63rd"), RuntimeError("a bug"), MemoryError()])
async def test_a_request_that_fails_in_an_unknown_way_fails_alone(bench, log_lines, failure):
    bench.store.append("fashion", "pi-a", [(0, pack(0))])
    bench.store.failures["fashion", "pi-a"] = failure
    await bench.ask(samples_of("r-1", {BlockRef("pi-a", 0): [0]}), SnapshotRequest("r-2", "pi-b", "fashion"))

    await bench.serve()

    assert bench.answers() == []
    assert [part.request for part in bench.answers("pi-b")] == ["r-2"]
    (line,) = log_lines("archive.unanswered")
    assert (line["edge"], line["request"]) == ("pi-a", "r-1")
    assert type(failure).__name__ in line["traceback"]
    assert bench.health.reasons == {}


@pytest.mark.looptime
async def test_damaged_blocks_are_told_once_for_each_source(bench, log_lines):
    for source in ("pi-a", "pi-b"):
        bench.store.append("fashion", source, [(offset, pack(4 * offset)) for offset in range(50)])
    bench.store.unreadable = {BlockRef(source, offset) for source in ("pi-a", "pi-b") for offset in range(50)}
    await bench.ask(samples_of("r-1", {ref: [0, 1] for ref in sorted(bench.store.unreadable)}))

    await bench.serve()

    assert [part.missing.tolist() for part in bench.samples()] == [list(range(200))]
    assert [line["source"] for line in log_lines("archive.unreadable")] == ["pi-a", "pi-b"]


@pytest.mark.looptime
async def test_an_edge_that_asks_without_end_gets_some_lines_and_hides_nobodys(bench, log_lines):
    for i in range(50):
        await bench.ask(samples_of(f"r-{i}", {}))
        await bench.serve(0.2)
    await bench.ask(samples_of("r-b", {}, edge="pi-b"))
    await bench.serve(0.2)

    assert [part.request for part in bench.answers("pi-b")] == ["r-b"]
    assert len(bench.answers()) == 50


@pytest.mark.looptime
async def test_an_edge_whose_topic_takes_nothing_is_set_aside_and_tried_again(bench, monkeypatch, log_lines):
    """As when nobody has made it yet: the log waits for it, and the other edges need not."""
    append, is_there = bench.log.append, asyncio.Event()

    async def wait_for_topic(messages, **options):
        if any(message.topic == "site.epochs.pi-a" for message in messages):
            await is_there.wait()
        return await append(messages, **options)

    monkeypatch.setattr(bench.log, "append", wait_for_topic)
    await bench.ask(SnapshotRequest("a-1", "pi-a", "fashion"), SnapshotRequest("a-2", "pi-a", "fashion"))
    await bench.ask(SnapshotRequest("b-1", "pi-b", "fashion"))
    serving = asyncio.create_task(bench.serve(10_000))
    await asyncio.sleep(50)
    assert [part.request for part in bench.answers("pi-b")] == ["b-1"]
    assert "is the topic there" in bench.health.reasons["epochs/pi-a"]

    await bench.ask(SnapshotRequest("a-3", "pi-a", "fashion"), SnapshotRequest("b-2", "pi-b", "fashion"))
    await asyncio.sleep(1)
    assert [part.request for part in bench.answers("pi-b")] == ["b-1", "b-2"], "without another wait"
    assert "tried again later" in log_lines("archive.bad_request")[0]["reason"]

    is_there.set()
    await asyncio.sleep(120)
    await bench.ask(SnapshotRequest("a-4", "pi-a", "fashion"))
    await asyncio.sleep(1)
    assert [part.request for part in bench.answers("pi-a")] == ["a-4"]
    assert bench.health.reasons == {}
    serving.cancel()
    await asyncio.wait([serving])


@pytest.mark.looptime
async def test_no_edge_is_set_aside_while_kafka_is_away(bench, monkeypatch):
    await bench.ask(SnapshotRequest("a-1", "pi-a", "fashion"))
    append = bench.log.append

    async def break_off(messages, **options):
        bench.log.unavailable = True
        monkeypatch.setattr(bench.log, "append", append)
        return await append(messages, **options)

    monkeypatch.setattr(bench.log, "append", break_off)
    serving = asyncio.create_task(bench.serve(10_000))
    await asyncio.sleep(500)
    assert bench.answers("pi-a") == []
    bench.log.unavailable = False
    await asyncio.sleep(1)
    assert [part.request for part in bench.answers("pi-a")] == ["a-1"]
    assert bench.health.reasons == {}
    serving.cancel()
    await asyncio.wait([serving])
