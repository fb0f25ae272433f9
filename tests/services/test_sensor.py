"""A replayed data set: which samples go out, when, and how it ends. In fake time."""

import asyncio

import pytest

from edged.domain.topology import Dtype
from edged.errors import FormatError, RejectedRecord, StorageError
from edged.ports import Item
from edged.services.sensor import Sensor

pytestmark = pytest.mark.looptime


class Numbers:
    """A data set whose sample i holds i."""

    name, labels, shape, splits, left_out = "numbers", ("even", "odd"), (1,), ("train",), ()
    dtype: Dtype = "uint8"
    label_place = "the numbers"

    def __init__(self, count=10):
        self._count = count

    def count(self, split):
        return self._count

    def sample(self, split, index):
        return Item(self.label(split, index), "raw", str(index).encode())

    def label(self, split, index):
        return self.labels[index % 2]

    def item_name(self, split, index):
        return f"{split} {index}"


class Sink:
    """Where samples are published: remembers each one's time; takes `takes_s` for each batch."""

    def __init__(self, takes_s=0.0):
        self.batches = []
        self.times = []
        self.takes_s = takes_s

    async def __call__(self, samples):
        await asyncio.sleep(self.takes_s)
        self.batches.append(list(samples))
        self.times.append(asyncio.get_running_loop().time())

    @property
    def numbers(self):
        return [int(payload) for batch in self.batches for payload, _ in batch]


async def replay(sink, count=10, stop=None, **options):
    return await Sensor(Numbers(count), "train", publish=sink, **options).run(stop or asyncio.Event())


async def test_a_pass_publishes_every_sample_once_in_order_with_its_label():
    sink = Sink()
    assert await replay(sink) == 10
    assert sink.numbers == list(range(10))
    assert sink.batches[3] == [(b"3", "odd")]


async def test_sample_i_is_published_at_i_over_rate():
    sink = Sink()
    await replay(sink, rate=4)
    assert sink.times == pytest.approx([i / 4 for i in range(10)], abs=2e-3)


async def test_slow_publishing_does_not_make_the_schedule_drift():
    sink = Sink(takes_s=0.1)
    await replay(sink, count=50, rate=4)
    assert sink.times == pytest.approx([0.1 + i / 4 for i in range(50)], abs=2e-3)


async def test_samples_delayed_by_an_outage_are_published_at_once_after_it():
    sink = Sink(takes_s=5.0)

    async def publish(samples):
        await sink(samples)
        sink.takes_s = 0.0

    await Sensor(Numbers(60), "train", publish=publish, rate=10).run(asyncio.Event())
    assert [len(batch) for batch in sink.batches][:3] == [1, 50, 1]
    assert sink.numbers == list(range(60))


async def test_fast_samples_travel_in_batches_at_the_same_rate(real_threads):
    sink = Sink()
    await replay(sink, count=2_000, rate=2_000)
    assert sink.times[-1] == pytest.approx(1.0, abs=0.05)
    assert len(sink.batches) < 220
    assert sink.numbers == list(range(2_000))


async def test_an_infinite_rate_is_as_fast_as_the_log_accepts_samples():
    sink = Sink(takes_s=1.0)
    await replay(sink, count=600, rate=float("inf"))
    assert [len(batch) for batch in sink.batches] == [256, 256, 88]


async def test_a_limit_ends_it_early_and_a_loop_goes_beyond_one_pass():
    sink = Sink()
    assert await replay(sink, limit=3) == 3
    assert await replay(sink, limit=25, loop=True) == 25
    assert sink.numbers == [*range(3), *range(10), *range(10), *range(5)]


async def test_skipped_samples_are_left_out_of_each_pass():
    sink = Sink()
    assert await replay(sink, skip=7) == 3
    assert await replay(sink, skip=7, loop=True, limit=5) == 5
    assert sink.numbers == [7, 8, 9, 7, 8, 9, 7, 8]


async def test_a_shuffle_is_a_new_order_of_all_for_each_pass_and_the_same_for_the_same_seed():
    first, again, other = Sink(), Sink(), Sink()
    for sink, seed in ((first, 1), (again, 1), (other, 2)):
        await replay(sink, limit=20, loop=True, shuffle=seed)
    assert sorted(first.numbers[:10]) == sorted(first.numbers[10:]) == list(range(10))
    assert first.numbers == again.numbers
    assert len({tuple(order) for order in (first.numbers[:10], first.numbers[10:], other.numbers[:10])}) == 3


async def test_unlabelled_samples_have_no_label():
    sink = Sink()
    await replay(sink, unlabelled=True)
    assert {label for batch in sink.batches for _, label in batch} == {None}


async def test_a_stop_completes_the_current_batch_and_returns_the_number_published():
    sink, stop = Sink(takes_s=0.1), asyncio.Event()
    asyncio.get_running_loop().call_later(2.45, stop.set)  # while the fourth sample is on its way
    assert await replay(sink, rate=1.25, stop=stop) == len(sink.numbers) == 4
    assert asyncio.get_running_loop().time() == pytest.approx(2.5, abs=1e-3)


async def test_an_empty_split_ends_at_once_also_in_a_loop():
    assert await replay(Sink(), count=0, loop=True) == 0


def refuse(*numbers, error=None):
    """A `fit` that refuses these."""

    def fit(item):
        if int(item.payload) in numbers:
            raise error or RejectedRecord("truncated", "it ends early")
        return item.payload

    return fit


async def test_what_cannot_be_published_is_named_and_counted_and_the_next_one_takes_its_place(log_lines):
    sink = Sink()
    fit = refuse(2, 3, error=StorageError("/data/2.jpg: Input/output error"))
    assert await replay(sink, fit=fit) == 8
    assert sink.numbers == [0, 1, *range(4, 10)]
    assert await replay(sink, fit=refuse(0, 1), limit=3) == 3
    assert sink.numbers[8:] == [2, 3, 4]
    assert [(line["item"], line["reason"], line["detail"]) for line in log_lines("sensor.left_out")] == [
        ("train 2", "unreadable", "/data/2.jpg: Input/output error"),
        ("train 0", "truncated", "it ends early"),
    ]
    assert [line["left_out"] for line in log_lines("sensor.published")] == [2, 2]


@pytest.mark.parametrize("rate", [50.0, float("inf")])
@pytest.mark.parametrize("shuffle", [None, 1])
async def test_a_loop_goes_on_without_what_cannot_be_published(rate, shuffle, log_lines):
    sink = Sink()
    assert await replay(sink, fit=refuse(0, 4), loop=True, limit=25, skip=2, rate=rate, shuffle=shuffle) == 25
    assert not {0, 4} & set(sink.numbers)


@pytest.mark.parametrize(
    "options", [{}, {"loop": True}, {"limit": 3}, {"loop": True, "shuffle": 1, "skip": 4}], ids=str
)
async def test_nothing_that_can_be_published_is_an_error(options):
    with pytest.raises(
        FormatError, match=r"numbers: no sample can be published: train [0-9]: truncated: it ends early"
    ):
        await replay(Sink(), fit=refuse(*range(10)), **options)


async def test_published_counts_are_reported_and_logged(log_lines):
    reported: list[int] = []
    await replay(Sink(), count=30, rate=1, on_published=reported.append)
    assert sum(reported) == 30
    assert [line["samples"] for line in log_lines("sensor.published")] == [11, 21, 30]


async def test_samples_acknowledged_before_a_failure_are_counted():
    sensor = Sensor(Numbers(), "train", publish=Failing(after=3))
    with pytest.raises(RuntimeError):
        await sensor.run(asyncio.Event())
    assert sensor.published == 3


class Failing(Sink):
    def __init__(self, after):
        super().__init__()
        self._after = after

    async def __call__(self, samples):
        if len(self.batches) == self._after:
            raise RuntimeError("broken")
        await super().__call__(samples)
