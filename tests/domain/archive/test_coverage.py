"""The range of offsets that a file covers."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive.coverage import Gap, covered


@given(st.integers(0, 1 << 40), st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=9))
def test_packs_and_gaps_in_any_pattern_cover_the_range_that_they_fill(first, runs):
    offsets: list[int] = []
    gaps: list[Gap] = []
    end = first
    for is_gap, length in [*runs, (False, 1)]:
        if is_gap:
            gaps.append((end, end + length))
        else:
            offsets.extend(range(end, end + length))
        end += length

    assert covered(offsets, reversed(gaps)) == (first, end)
