"""Which job keeps what, compared with sets."""

import numpy as np

from edged.domain.archive.snapshot import BlockRef
from edged.domain.cache.entry import SampleKey
from edged.domain.cache.job_bitmap import JobBitmap


def test_it_agrees_with_sets():
    rng = np.random.default_rng(3)
    bitmap = JobBitmap()
    sets: list[set[tuple[BlockRef, int]]] = [set() for _ in range(8)]
    for _ in range(400):
        job, ref = int(rng.integers(8)), BlockRef("pi", int(rng.integers(3)))
        rows = np.unique(rng.integers(0, 40, rng.integers(0, 12)))
        named = {(ref, row) for row in rows.tolist()}
        if rng.random() < 0.5:
            bitmap.add(job, ref, rows)
            sets[job] |= named
        else:
            bitmap.remove(job, ref, rows)
            sets[job] -= named
    assert all(sets)
    for job, expected in enumerate(sets):
        assert {(ref, row) for ref, rows in bitmap.of_job(job) for row in rows.tolist()} == expected
    kept = set.union(*sets)
    for offset in range(4):
        ref = BlockRef("pi", offset)
        expected_rows = [(ref, row) in kept for row in range(60)]
        assert bitmap.are_kept(ref, np.arange(60)).tolist() == expected_rows
        assert [bitmap.is_kept(SampleKey("pi", offset, row)) for row in range(60)] == expected_rows
