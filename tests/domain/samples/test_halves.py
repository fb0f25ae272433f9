"""A pack in two: nothing is lost, nothing is read twice, wherever the process ends."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.place import Place
from edged.domain.samples.cursors import cursor_key
from edged.domain.samples.halves import halves
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    """Samples of up to three partitions, with records skipped in between."""
    cursors = {cursor_key("cam", n): draw(st.integers(0, 1 << 62)) for n in range(3)}
    samples = []
    for _ in range(draw(st.integers(2, 20))):
        partition = draw(st.integers(0, 2))
        offset = cursors[cursor_key("cam", partition)] + draw(st.integers(0, 3))
        samples.append(Sample("cam", partition, offset, 0, None, "raw", b"x"))
        cursors[cursor_key("cam", partition)] = offset + 1
    return Pack("tiles", tuple(samples), {key: Place(offset) for key, offset in cursors.items()})


@given(packs())
def test_who_resumes_after_the_first_half_reads_exactly_the_second(pack: Pack):
    first, second = halves(pack)

    assert first.samples + second.samples == pack.samples
    assert first.samples
    assert second.samples
    assert second.cursors == pack.cursors

    def is_before(sample: Sample) -> bool:
        return sample.offset < first.cursors[cursor_key(sample.device, sample.partition)].offset

    assert all(is_before(sample) for sample in first.samples)
    assert not any(is_before(sample) for sample in second.samples)
