"""What is in quarantine after some records, and what a snapshot makes of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive import quarantine
from edged.domain.archive.quarantine import QuarantineRecord, from_pack, in_effect, laid_over, to_pack
from edged.domain.archive.snapshot import BlockRef, Snapshot, renumbered
from edged.errors import FormatError

ROWS = {BlockRef("pi-a", 0): 5, BlockRef("pi-a", 3): 0, BlockRef("pi-a", 4): 256, BlockRef("pi-b", 0): 1}
RECORD = QuarantineRecord("quarantine", BlockRef("pi-a", 4), 7, "root@vault", 1_700_000_000_000)


def snapshot(refs: list[BlockRef] | None = None) -> Snapshot:
    refs = sorted(ROWS) if refs is None else refs
    sources = tuple(sorted({ref.source for ref in refs}))
    rows = np.array([ROWS[ref] for ref in refs], np.int64)
    return Snapshot(
        sources,
        np.array([sources.index(ref.source) for ref in refs], np.int64),
        np.array([ref.offset for ref in refs], np.int64),
        rows,
        rows * 10,
        {"pi-a": 5, "pi-b": 1},
    )


records = st.lists(
    st.builds(
        QuarantineRecord,
        st.sampled_from(quarantine.ACTIONS),
        st.sampled_from([*ROWS, BlockRef("pi-c", 0)]),
        st.none() | st.sampled_from([0, 1, 2, 4, 5, 100, 254, 255]),
        st.just("me"),
        st.just(0),
    ),
    max_size=30,
)


def quarantined_ids(said: list[QuarantineRecord], of: Snapshot) -> set[int]:
    """As a set would have it, sample by sample."""
    found: set[tuple[BlockRef, int]] = set()
    for record in said:
        rows = range(256) if record.row is None else [record.row]
        named = {(record.ref, row) for row in rows}
        found = found | named if record.action == "quarantine" else found - named
    first = of.first_id.tolist()
    return {
        first[block] + row
        for block in range(of.num_blocks)
        for row in range(int(of.rows[block]))
        if (of.ref(block), row) in found
    }


@given(records)
def test_what_is_in_quarantine_is_what_the_last_record_about_each_sample_says(said):
    laid = laid_over(snapshot(), in_effect(said))
    expected = quarantined_ids(said, laid)
    every = np.arange(laid.num_samples)

    assert set(every.tolist()) - set(laid.without_quarantined(every).tolist()) == expected
    masks = [laid.first_id[block] + np.flatnonzero(laid.is_quarantined(block)) for block in range(laid.num_blocks)]
    assert {int(each) for mask in masks for each in mask} == expected
    assert int((laid.rows - laid.usable_rows).sum()) == len(expected)
    assert len(laid.quarantined) <= len(expected)


@given(records)
def test_samples_keep_their_ids_and_those_in_quarantine_are_not_renumbered(said):
    old, new = snapshot(sorted(ROWS)[2:]), laid_over(snapshot(), in_effect(said))
    ids = np.arange(old.num_samples)

    result = renumbered(ids, old, new)

    out = quarantined_ids(said, new)
    expected = [each for each in renumbered(ids, old, snapshot()).tolist() if each not in out]
    assert result.tolist() == expected


@given(records)
def test_records_are_read_back_from_the_block_that_holds_them(said):
    pack = to_pack("fashion", said)
    assert from_pack(pack) == said
    assert [each.offset for each in pack.samples] == list(range(len(said)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edged": "quarantine/2"}, "not quarantine/1 but 'quarantine/2', of another version"),
        ({"action": "delete"}, "no sample and no block"),
        ({"row": 256}, "no sample and no block"),
        ({"row": True}, "no sample and no block"),
        ({"offset": -1}, "no sample and no block"),
        ({"offset": "7"}, "no sample and no block"),
        ({"source": None}, "no sample and no block"),
        ({"by": 7}, "no sample and no block"),
    ],
)
def test_anything_else_is_no_record(change, message):
    pack = to_pack("fashion", [RECORD])
    (sample,) = pack.samples

    def read(payload: bytes) -> None:
        from_pack(replace(pack, samples=(replace(sample, payload=payload),)))

    with pytest.raises(FormatError, match=message):
        read(json.dumps(json.loads(sample.payload) | change).encode())
    for payload in (b"[" * 100_000, b"{}", b"[]", b"\xff"):
        with pytest.raises(FormatError, match="not a record"):
            read(payload)
