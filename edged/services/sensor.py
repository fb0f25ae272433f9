"""The sensor: publishes the samples of a finished data set as one device would, at a steady rate.

Covers the schedule. The data set, converting its items to the device's stream and publishing are passed in.
"""

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence

from edged.aio import run_in_worker
from edged.domain.samples.shuffle import shuffled
from edged.domain.text import shown
from edged.errors import FormatError, RejectedRecord, StorageError
from edged.log import ThrottledLog, logger
from edged.ports import Dataset, Item

Sample = tuple[bytes, str | None]
"""A payload in the device's codec, and its label."""

Refused = tuple[int, str, str]
"""An item's index, a word for the reason, and detail."""

_TICK_S = 0.005
"""Samples due within one tick are published together: above 200 per second in batches."""

_MAX_BATCH = 256
_REPORT_S = 10.0


class Sensor:
    """Replays one split of `dataset`, in order or, with the seed `shuffle`, in a new order for each pass.

    `rate`: samples per second (inf: as fast as they are accepted). The schedule follows the clock, so it does not
    drift: samples delayed by an outage are published at once after it. `skip`: samples left out at the beginning of
    each pass. `limit`: samples to publish; None is one pass, or no end with `loop`. `fit` makes an item's payload what
    the device publishes; `publish` returns once all are acknowledged; `on_published` gets their number.

    An item that cannot be read, or that `fit` refuses, is left out: it is named in the log, the first of each reason at
    least, and the next one takes its place.
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
        self._left_out: set[int] = set()
        self._lines = ThrottledLog()
        self.published = 0
        """Samples acknowledged so far."""

    async def run(self, stop: asyncio.Event) -> int:
        """Publish until all is published or `stop` is set; return the number of samples published.

        `stop` lets the current batch complete. Raises FormatError when nothing can be published. Cancelled: the current
        batch may or may not be in the log.
        """
        clock = asyncio.get_running_loop().time
        self._started_s = reported_s = clock()
        indices = self._indices()
        try:
            while not stop.is_set() and self.published != self.total:
                await self._publish_due(indices)
                if clock() - reported_s >= _REPORT_S:
                    reported_s = clock()
                    self._report()
                if self.published != self.total:
                    await self._wait_until_due(stop)
        finally:
            self._report()
        return self.published

    @property
    def total(self) -> int | None:
        """Number of samples to publish, as far as is known; None: without end."""
        num_items = self._dataset.count(self._split)
        count = num_items - self._skip - len(self._left_out)
        if self._loop and self._shuffle is not None and self._skip < num_items:
            count = num_items - len(self._left_out)  # each pass skips others
        if self._loop and count > 0:
            return self._limit
        return max(0, count if self._limit is None else min(count, self._limit))

    def _indices(self) -> Iterator[int]:
        """The items' indices in the order of publication, pass after pass."""
        count = self._dataset.count(self._split)
        for pass_index in itertools.count():
            order = range(count) if self._shuffle is None else shuffled(count, self._shuffle, pass_index).tolist()
            yield from (index for index in order[self._skip :] if index not in self._left_out)

    async def _publish_due(self, indices: Iterator[int]) -> None:
        due = list(itertools.islice(indices, self._num_due()))
        samples, refused = await run_in_worker(self._samples, due)
        self._leave_out(refused)
        if not samples:
            return
        await self._publish(samples)
        self.published += len(samples)
        self._published_bytes += sum(len(payload) for payload, _ in samples)
        self._on_published(len(samples))

    def _num_due(self) -> int:
        """Number of samples due now, at least one: sample i is due at start + i / rate."""
        elapsed_s = asyncio.get_running_loop().time() - self._started_s
        num_due = _MAX_BATCH if math.isinf(self._rate) else max(1, int(elapsed_s * self._rate) + 1 - self.published)
        total = self.total
        left = num_due if total is None else total - self.published
        return min(num_due, left, _MAX_BATCH)

    def _samples(self, indices: Sequence[int]) -> tuple[list[Sample], list[Refused]]:
        samples: list[Sample] = []
        refused: list[Refused] = []
        for index in indices:
            try:
                item = self._dataset.sample(self._split, index)
                samples.append((self._fit(item), None if self._unlabelled else item.label))
            except RejectedRecord as error:
                refused.append((index, error.reason, error.detail))
            except (FormatError, StorageError) as error:
                refused.append((index, "unreadable", str(error)))
        return samples, refused

    def _leave_out(self, refused: Sequence[Refused]) -> None:
        for index, reason, detail in refused:
            self._left_out.add(index)
            item = shown(self._dataset.item_name(self._split, index))
            self._lines.warning("sensor.left_out", reason, item=item, reason=reason, detail=shown(detail))
        if refused and self.total == 0:
            raise FormatError(f"{self._dataset.name}: no sample can be published: {item}: {reason}: {detail}")

    async def _wait_until_due(self, stop: asyncio.Event) -> None:
        """Wait until the next sample is due, and at least a tick if samples are due faster than ticks."""
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
            left_out=len(self._left_out),
        )
