"""An epoch's mini-batches, streamed from the archive in the plan's order.

Covers fetching ahead and filling batches. The order is domain.sampling's subject, requests and silence are
`archive_client`'s. One window is consumed while the next one is on its way: the next of training, then those of the
held-out samples, then the first of the next epoch, so that the trainer seldom waits at a boundary either.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import NamedTuple

from edged.aio import run_in_worker
from edged.domain import sampling
from edged.domain.sampling import EpochPlan, Ids, Window
from edged.log import logger
from edged.services.archive_client import ArchiveClient, SnapshotFetch, WindowFetch
from edged.services.minibatch import Batcher, Encoded, MiniBatch

EMPTY_RETRY_S = 5.0
"""How often an empty archive is asked again: half its default flush interval."""


_MOST_AHEAD = 4
"""Windows asked for in advance; the archive keeps so many requests of an edge waiting, and twice as many."""


@dataclass(frozen=True, slots=True)
class EpochSettings:
    """`prefetch_bytes`: for two windows together, the one in use and the one on its way."""

    epochs: int
    seed: int
    test_fraction: float
    test_samples: int
    prefetch_bytes: int

    @property
    def window_bytes(self) -> int:
        return self.prefetch_bytes // 2


class _Place(NamedTuple):
    """A window's place in the run."""

    epoch: int
    held_out: bool
    window: int


@dataclass(eq=False, slots=True)
class _Epoch:
    """A plan and its held-out windows; whether there is anything to train on."""

    plan: EpochPlan
    held_out: tuple[Window, ...]
    is_empty: bool

    def following(self, place: _Place) -> _Place | None:
        """The next place in this epoch that has samples."""
        plan, index = self.plan, place.window + 1
        if not place.held_out:
            while index < plan.num_windows and not plan.window_samples(index):
                index += 1
            if index < plan.num_windows:
                return _Place(plan.epoch, False, index)
            index = 0
        return _Place(plan.epoch, True, index) if index < len(self.held_out) else None

    def window(self, place: _Place) -> Window:
        return self.held_out[place.window] if place.held_out else self.plan.window(place.window)


class Epochs:
    """The training job's view of the archive. Used by one task, inside `open()`.

    Memory: two windows, their plan's blocks and two mini-batches.
    """

    def __init__(self, client: ArchiveClient, batcher: Batcher, settings: EpochSettings) -> None:
        self._client = client
        self._batcher = batcher
        self._settings = settings
        self._present: _Epoch | None = None
        self._next_snapshot: SnapshotFetch | None = None
        self._next: _Epoch | None = None
        self._ahead: deque[tuple[_Place, WindowFetch]] = deque()
        self._candidate: tuple[_Place, Window] | None = None
        self._in_use_bytes = 0
        self._skipped = (0, 0)
        self.decode_s = 0.0

    def open(self) -> AbstractAsyncContextManager[None]:
        """Connect; waits for the log."""
        return self._client.open()

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting for the archive since start."""
        return self._client.wait_s

    @property
    def is_waiting(self) -> bool:
        return self._client.is_waiting

    @property
    def num_bytes(self) -> int:
        """Bytes of the windows in memory."""
        return self._in_use_bytes + self._client.num_bytes + sum(fetch.num_bytes for _, fetch in self._ahead)

    async def draw(self, epoch: int, ends: Mapping[str, int] | None = None) -> EpochPlan:
        """The plan of `epoch` over the archive as it is now, or as it was at `ends`.

        Waits until the archive has anything to train on.
        """
        if self._next is None or self._next.plan.epoch != epoch or ends is not None:
            self._next = await self._draw(epoch, ends)
            self._forget_ahead()  # windows of another plan, after going back
        self._present, self._next, self._next_snapshot = self._next, None, None
        return self._present.plan

    async def train(self, plan: EpochPlan, first_sample: int = 0) -> AsyncGenerator[tuple[MiniBatch, int], None]:
        """The mini-batches of the plan just drawn from its `first_sample`-th sample on.

        Yields (batch, index of the next sample in the epoch): with that index another process goes on exactly there.
        All batches are full but the last. Samples that are missing, unlabelled or undecodable are left out.
        Cancelled, it forgets what it fetched.
        """
        index, at = await run_in_worker(plan.locate, first_sample)
        logger().info(
            "epoch.drawn",
            epoch=plan.epoch,
            blocks=plan.snapshot.num_blocks,
            windows=plan.num_windows,
            first_sample=first_sample,
        )
        place = _Place(plan.epoch, False, index) if index < plan.num_windows else None
        async with aclosing(self._batches(place, at, first_sample)) as batches:
            async for batch in batches:
                yield batch

    async def held_out(self) -> AsyncGenerator[MiniBatch, None]:
        """The mini-batches of the present plan's held-out samples, in a fixed order."""
        assert self._present is not None, "draw() first"
        place = _Place(self._present.plan.epoch, True, 0) if self._present.held_out else None
        async with aclosing(self._batches(place, 0, 0)) as batches:
            async for batch, _ in batches:
                yield batch

    async def _batches(self, place: _Place | None, at: int, sample: int) -> AsyncGenerator[tuple[MiniBatch, int], None]:
        """Batches from `place` to the end of its kind; `at`: where in the first window, `sample`: its index."""
        assert self._present is not None, "draw() first"
        batcher = self._batcher
        batcher.take()  # what a cancelled iteration left
        first = place
        while place is not None and first is not None and place.held_out == first.held_out:
            fetch = await self._fetch(place)
            order = fetch.window.order
            while at < len(order):
                await self._look_ahead(place)
                positions = order[at : at + batcher.num_free]
                await self._decode(fetch, positions)
                at += len(positions)
                sample += len(positions)
                if not batcher.num_free:
                    yield batcher.take(), sample
            place, at = self._present.following(place), 0
        self._in_use_bytes = 0
        if len(batch := batcher.take()):
            yield batch, sample
        self._report_skipped()

    async def _decode(self, fetch: WindowFetch, positions: Ids) -> None:
        """Put samples of a window into the batch, and count the time that training has to stand by for it."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await run_in_worker(_add, self._batcher, fetch, positions)
        self.decode_s += loop.time() - begin

    async def _fetch(self, place: _Place) -> WindowFetch:
        """The window at `place`, complete."""
        if not self._ahead or self._ahead[0][0] != place:
            self._forget_ahead()
            await self._ask(place, await self._window(place))
        _, fetch = self._ahead[0]
        await self._client.wait(fetch)
        self._ahead.popleft()
        self._in_use_bytes = fetch.num_bytes
        if fetch.num_missing:
            logger().warning("epoch.missing", samples=fetch.num_missing)
        return fetch

    async def _look_ahead(self, place: _Place) -> None:
        """Move on what is on its way, and ask for what comes after `place`: one window, and more while they fit.

        Small windows, such as the held-out samples between two epochs, would else be too short a time for the next.
        """
        await self._client.drain()
        while len(self._ahead) < _MOST_AHEAD:
            following = await self._following(self._ahead[-1][0] if self._ahead else place)
            if following is None:
                return
            window = await self._window(following)
            asked_bytes = sum(fetch.window.num_bytes for _, fetch in self._ahead)
            if self._ahead and self._in_use_bytes + asked_bytes + window.num_bytes > self._settings.prefetch_bytes:
                return
            await self._ask(following, window)

    async def _following(self, place: _Place) -> _Place | None:
        """The place after this one, in the next epoch if need be; None when it is not known yet or there is none."""
        assert self._present is not None
        if (following := self._epoch_of(place).following(place)) is not None:
            return following
        epoch = place.epoch + 1
        if epoch == self._settings.epochs or place.epoch != self._present.plan.epoch:
            return None
        if self._next_snapshot is None:
            self._next_snapshot = SnapshotFetch(None)
            await self._client.ask(self._next_snapshot)
        elif self._next is None and self._next_snapshot.is_complete:
            self._next = await self._plan(epoch, self._next_snapshot)
        return None if self._next is None else self._next.following(_Place(epoch, False, -1))

    def _epoch_of(self, place: _Place) -> _Epoch:
        source = self._next if self._next is not None and self._next.plan.epoch == place.epoch else self._present
        assert source is not None
        return source

    async def _window(self, place: _Place) -> Window:
        """The window at `place`; the last one made is remembered, since one that does not fit yet is asked again."""
        if self._candidate is None or self._candidate[0] != place:
            self._candidate = place, await run_in_worker(self._epoch_of(place).window, place)
        return self._candidate[1]

    async def _ask(self, place: _Place, window: Window) -> None:
        self._candidate = None
        self._ahead.append((place, fetch := WindowFetch(window)))
        await self._client.ask(fetch)

    def _forget_ahead(self) -> None:
        while self._ahead:
            self._client.forget(self._ahead.pop()[1])

    async def _draw(self, epoch: int, ends: Mapping[str, int] | None) -> _Epoch:
        is_said = False
        fetch = self._next_snapshot if ends is None else None
        while True:
            if fetch is None:
                fetch = SnapshotFetch(None if ends is None else dict(ends))
                await self._client.ask(fetch)
            await self._client.wait(fetch)
            drawn = await self._plan(epoch, fetch)
            if not drawn.is_empty:
                return drawn
            if not is_said:
                logger().info("epoch.empty", epoch=epoch)
                is_said = True
            fetch, ends = None, None
            await self._client.pause(EMPTY_RETRY_S)

    async def _plan(self, epoch: int, fetch: SnapshotFetch) -> _Epoch:
        settings = self._settings

        def draw() -> _Epoch:
            snapshot = fetch.snapshot()
            plan = sampling.plan(
                snapshot,
                seed=settings.seed,
                epoch=epoch,
                test_fraction=settings.test_fraction,
                window_bytes=settings.window_bytes,
            )
            held_out = sampling.held_out_windows(
                snapshot,
                test_fraction=settings.test_fraction,
                window_bytes=settings.window_bytes,
                most_samples=settings.test_samples,
            )
            return _Epoch(plan, held_out, plan.is_empty)

        return await run_in_worker(draw)

    def _report_skipped(self) -> None:
        counts = (self._batcher.num_unlabelled, self._batcher.num_undecodable)
        unlabelled, undecodable = (now - before for now, before in zip(counts, self._skipped, strict=True))
        if unlabelled or undecodable:
            assert self._present is not None
            epoch = self._present.plan.epoch
            say = logger().warning if undecodable else logger().info  # a device need not know the label
            say("epoch.skipped", epoch=epoch, unlabelled=unlabelled, undecodable=undecodable)
        self._skipped = counts


def _add(batcher: Batcher, fetch: WindowFetch, positions: Ids) -> None:
    """Decode the samples at `positions` of the fetch into the batch, and free what they held."""
    samples = []
    for at in positions.tolist():
        samples.append(Encoded(fetch.payloads[at], fetch.codecs[at], fetch.labels[at], int(fetch.window.ids[at])))
        fetch.payloads[at] = None
    batcher.add(samples)
