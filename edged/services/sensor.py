"""The sensor: publishes the samples of a finished data set as one device would, at a steady rate.

Decides what is due when. Opening data sets, fitting items to the device's stream and the way into the log are
given to it.
"""

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence

from edged.aio import run_in_worker
from edged.domain.samples.shuffle import shuffled
from edged.log import logger
from edged.ports import Dataset, Item

Sample = tuple[bytes, str | None]
"""A payload in the device's codec, and its label."""

_TICK_S = 0.005
"""Samples due within one tick go together: above 200 a second they travel in batches."""

_MAX_AT_ONCE = 256
_REPORT_S = 10.0


class Sensor:
    """Replays one split of `dataset`, in order or in an order drawn anew from `shuffle` for each pass.

    `rate` is in samples per second (inf: as fast as they are accepted). The schedule is the clock's, so that it
    does not drift: what an outage held back is published at once after it. `skip`: how many samples of each pass to
    leave out at its beginning. `limit`: how many samples to publish; None is one pass, or no end when `loop`. `fit`
    makes an item's payload what the device publishes; `publish` returns once all are acknowledged; `on_published` is
    told how many were.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        publish: Callable[[Sequence[Sample]], Awaitable[object]],
        fit: Callable[[Item], bytes] = lambda item: item.payload,
        rate: float = 50.0,
        skip: int = 0,
        limit: int | None = None,
        loop: bool = False,
        unlabelled: bool = False,
        shuffle: int | None = None,
        on_published: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._dataset = dataset
        self._split = split
        self._publish = publish
        self._fit = fit
        self._rate = rate
        self._skip = skip
        self._limit = limit
        self._loop = loop
        self._unlabelled = unlabelled
        self._shuffle = shuffle
        self._on_published = on_published
        self._published_bytes = 0
        self._started_s = 0.0
        self.published = 0
        """Samples acknowledged so far."""

    async def run(self, stop: asyncio.Event) -> int:
        """Publish until all is published or `stop` is set; return how many samples were.

        `stop` lets the batch on its way arrive. Cancelled: the batch on its way may or may not be in the log.
        """
        clock = asyncio.get_running_loop().time
        self._started_s = reported_s = clock()
        indices, total = self._indices(), self.total
        try:
            while not stop.is_set() and self.published != total:
                await self._publish_due(indices)
                if clock() - reported_s >= _REPORT_S:
                    reported_s = clock()
                    self._report()
                if self.published != total:
                    await self._wait_until_due(stop)
        finally:
            self._report()
        return self.published

    @property
    def total(self) -> int | None:
        """How many samples to publish; None: without end."""
        count = max(0, self._dataset.count(self._split) - self._skip)
        if self._loop and count:
            return self._limit
        return count if self._limit is None else min(count, self._limit)

    def _indices(self) -> Iterator[int]:
        """The items' indices in the order of publication, pass after pass."""
        count = self._dataset.count(self._split)
        for turn in itertools.count():
            order = range(count) if self._shuffle is None else shuffled(count, self._shuffle, turn).tolist()
            yield from order[self._skip :]

    async def _publish_due(self, indices: Iterator[int]) -> None:
        due = list(itertools.islice(indices, self._num_due()))
        samples = await run_in_worker(self._samples, due)
        await self._publish(samples)
        self.published += len(samples)
        self._published_bytes += sum(len(payload) for payload, _ in samples)
        self._on_published(len(samples))

    def _num_due(self) -> int:
        """How many samples are due now, at least one: sample i is due at start + i / rate."""
        elapsed_s = asyncio.get_running_loop().time() - self._started_s
        num_due = _MAX_AT_ONCE if math.isinf(self._rate) else max(1, int(elapsed_s * self._rate) + 1 - self.published)
        total = self.total
        left = num_due if total is None else total - self.published
        return min(num_due, left, _MAX_AT_ONCE)

    def _samples(self, indices: Sequence[int]) -> list[Sample]:
        items = [self._dataset.sample(self._split, index) for index in indices]
        return [(self._fit(item), None if self._unlabelled else item.label) for item in items]

    async def _wait_until_due(self, stop: asyncio.Event) -> None:
        """Until the next sample is due, and at least a tick when samples come faster than ticks."""
        now = asyncio.get_running_loop().time()
        next_s = self._started_s + self.published / self._rate
        if next_s <= now:
            return  # late: publish at once
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(next_s - now, _TICK_S)):
                await stop.wait()

    def _report(self) -> None:
        elapsed_s = asyncio.get_running_loop().time() - self._started_s
        logger().info(
            "sensor.published",
            dataset=self._dataset.name,
            samples=self.published,
            payload_bytes=self._published_bytes,
            elapsed_s=round(elapsed_s, 3),
            samples_per_s=round(self.published / elapsed_s, 3) if elapsed_s else 0.0,
        )
