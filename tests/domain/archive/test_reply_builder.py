"""How a request for samples is read and cut into parts."""

from collections.abc import Mapping

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive import protocol
from edged.domain.archive.protocol import MAX_PART_BYTES, SamplesPart, SamplesRequest
from edged.domain.archive.reply_builder import ReplyBuilder, ReplyPart, block_reads
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples.pack import Pack, by_columns
from edged.domain.samples.sample import Sample
from edged.domain.topology import Stream
from tests.support.archive_samples import STREAM, pack
from tests.support.by_samples import reply
from tests.support.properties import examples


def request(*entries: tuple[str, int, list[int]]) -> SamplesRequest:
    refs = tuple(BlockRef(source, offset) for source, offset, _ in entries)
    return SamplesRequest("r-1", "pi-a", "fashion", refs, tuple(np.array(rows, np.uint16) for *_, rows in entries))


def large(num_bytes: int) -> Pack:
    return Pack("fashion", (Sample("cam-01", 0, 0, 0, "boot", "jpeg", b"\xff\xd8\xff".ljust(num_bytes)),))


def answer(asked: SamplesRequest, packs: dict[BlockRef, Pack | None]) -> list[SamplesPart]:
    return [decoded(part.message) for part in built(asked, packs)]


def built(asked: SamplesRequest, packs: Mapping[BlockRef, Pack | None], stream: Stream = STREAM) -> list[ReplyPart]:
    builder = ReplyBuilder(asked.request, stream)
    blocks = {ref: None if pack is None else by_columns(pack) for ref, pack in packs.items()}
    return [part for read in block_reads(asked) for part in builder.add(read, blocks[read.ref])] + [builder.close()]


def decoded(message: bytes) -> SamplesPart:
    part = protocol.decode_part(message)
    assert isinstance(part, SamplesPart)
    return part


def test_blocks_are_read_once_each_in_the_order_of_the_archive():
    found = block_reads(request(("pi-b", 1, [3]), ("pi-a", 9, [0, 2]), ("pi-b", 0, []), ("pi-a", 9, [1])))

    assert [read.ref for read in found] == [("pi-a", 9), ("pi-b", 0), ("pi-b", 1)]
    assert [read.rows.tolist() for read in found] == [[0, 2, 1], [], [3]]
    assert [read.positions.tolist() for read in found] == [[1, 2, 3], [], [0]]


def test_an_empty_request_has_one_empty_last_part():
    (part,) = answer(request(), {})

    assert (part.last, len(part.position), len(part.missing)) == (True, 0, 0)


def test_rows_beyond_the_block_and_unreadable_blocks_are_missing():
    asked = request(("pi-a", 0, [1, 4]), ("pi-a", 1, [0, 1]))

    (part,) = answer(asked, {BlockRef("pi-a", 0): pack(0, 4), BlockRef("pi-a", 1): None})

    assert part.position.tolist() == [0]
    assert part.payloads == (pack(0, 4).samples[1].payload,)
    assert part.missing.tolist() == [1, 2, 3]


def test_a_sample_larger_than_a_part_travels_alone():
    asked = request(("pi-a", 0, [0]), ("pi-a", 1, [0]), ("pi-a", 2, [0]))
    sizes = [10, MAX_PART_BYTES + 1, 10]

    parts = answer(asked, {BlockRef("pi-a", i): large(size) for i, size in enumerate(sizes)})

    assert [[len(payload) for payload in part.payloads] for part in parts] == [[10], [MAX_PART_BYTES + 1], [10]]
    assert [part.part for part in parts] == [0, 1, 2]
    assert [part.last for part in parts] == [False, False, True]


@given(st.lists(st.integers(3, MAX_PART_BYTES), max_size=8))
def test_encoded_parts_stay_below_the_limit_and_hold_everything_once(sizes):
    asked = request(*[("pi-a", i, [0]) for i in range(len(sizes))])

    messages = built(asked, {BlockRef("pi-a", i): large(size) for i, size in enumerate(sizes)})

    header_bytes = 2048
    assert all(len(each.message) <= MAX_PART_BYTES + header_bytes or each.samples == 1 for each in messages)
    parts = [decoded(each.message) for each in messages]
    assert [position for part in parts for position in part.position.tolist()] == list(range(len(sizes)))
    assert [len(payload) for part in parts for payload in part.payloads] == sizes


STREAMS = [
    Stream("site", (2,), "float32", ("low", "high")),
    Stream("site", (2, 2, 1), "uint8", ("low", "high")),
]
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
floats = st.sampled_from([0.0, -0.0, 1.0, 1e-45, 1.17e-38, -1e18, 1.01e18, float("inf"), float("nan")])
samples = st.builds(
    Sample,
    device=st.sampled_from(["meter", "m" * 64, "", "a/b", "\0"]),
    partition=st.sampled_from([-1, 0, (1 << 31) - 1]),
    offset=st.sampled_from([-1, 0, (1 << 63) - 2, (1 << 63) - 1]),
    arrived_ms=st.sampled_from([-2, -1, 0, (1 << 63) - 1]),
    label=st.none() | st.sampled_from(["low", "high", "unknown", "", "l" * 257, "\u732b", "\ud800"]),
    codec=st.sampled_from(["raw", "jpeg", "png"]),
    payload=st.tuples(floats, floats).map(lambda each: np.array(each, "<f4").tobytes())
    | st.sampled_from([b"", b"1234", JPEG, JPEG + b"x", PNG, PNG[:-1], PNG.ljust(200_000), JPEG.ljust(786_433)]),
    sampled_ms=st.none() | st.sampled_from([-2, 0, 7]),
    incarnation=st.sampled_from(["", "0123456789abcdef"]),
)
good = st.builds(
    Sample,
    device=st.sampled_from(["meter", "other"]),
    partition=st.just(0),
    offset=st.integers(0, 9),
    arrived_ms=st.just(0),
    label=st.none() | st.sampled_from(["low", "high", "unknown"]),
    codec=st.just("raw"),
    payload=st.sampled_from([b"\0\0\x80\x3f", b"abcd", b"\0\0\x80\x3f\0\0\x80\x3f"]),
)


@examples(100)
@given(
    st.sampled_from(STREAMS),
    st.lists(st.none() | st.lists(good, max_size=9) | st.lists(good | samples, max_size=5), max_size=4),
    st.data(),
)
def test_the_messages_are_those_of_a_reply_made_sample_by_sample(stream, blocks, data):
    """Byte by byte, and so are the refused: labels or none, codecs, empty blocks, rows beyond, absent blocks."""
    packs = {BlockRef("pi-a", i): None if each is None else Pack("site", tuple(each)) for i, each in enumerate(blocks)}
    rows = st.lists(st.integers(0, 10), min_size=1, max_size=9, unique=True).map(sorted)
    asked = request(*(("pi-a", ref.offset, data.draw(rows)) for ref in packs))
    builder = ReplyBuilder(asked.request, stream)
    messages, refused = [], []
    for read in block_reads(asked):
        pack = packs[read.ref]
        messages += [*builder.add(read, None if pack is None else by_columns(pack))]
        refused += builder.take_refused()
    messages.append(builder.close())

    assert ([each.message for each in messages], refused) == reply(asked, packs, stream)
