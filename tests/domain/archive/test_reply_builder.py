"""How a request for samples is read and cut into parts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive import protocol
from edged.domain.archive.protocol import MAX_PART_BYTES, SamplesPart, SamplesRequest
from edged.domain.archive.reply_builder import ReplyBuilder, block_reads
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from tests.support.archive_samples import STREAM, pack


def request(*entries: tuple[str, int, list[int]]) -> SamplesRequest:
    refs = tuple(BlockRef(source, offset) for source, offset, _ in entries)
    return SamplesRequest("r-1", "pi-a", "fashion", refs, tuple(np.array(rows, np.uint16) for *_, rows in entries))


def large(num_bytes: int) -> Pack:
    return Pack("fashion", (Sample("cam-01", 0, 0, 0, "boot", "jpeg", b"\xff\xd8\xff".ljust(num_bytes)),))


def answer(asked: SamplesRequest, packs: dict[BlockRef, Pack | None]) -> list[SamplesPart]:
    builder = ReplyBuilder(asked.request, STREAM)
    return [part for read in block_reads(asked) for part in builder.add(read, packs[read.ref])] + [builder.close()]


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

    parts = answer(asked, {BlockRef("pi-a", i): large(size) for i, size in enumerate(sizes)})

    header_bytes = 2048
    assert all(
        len(protocol.encode_part(part)) <= MAX_PART_BYTES + header_bytes or len(part.payloads) == 1 for part in parts
    )
    assert [position for part in parts for position in part.position.tolist()] == list(range(len(sizes)))
    assert [len(payload) for part in parts for payload in part.payloads] == sizes
