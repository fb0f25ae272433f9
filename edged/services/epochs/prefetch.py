"""The window in use and those on their way: what is asked for ahead, and how much.

Covers the order of windows, from one epoch into the next, and the bytes of all of them. See also: `window_reader` for a
single window, `services.archive.client` for requests and retries, `plans` for what the windows hold.
"""

from collections import deque

import numpy as np

from edged.aio import run_in_worker
from edged.domain.epochs.plan import CachedWindow
from edged.services.archive.client import ArchiveClient
from edged.services.cache.shared import CacheShare
from edged.services.epochs.plans import EpochPlans, WindowPosition
from edged.services.epochs.window_reader import WindowReader

_MAX_AHEAD = 4
"""Windows asked for in advance; the archive queues up to twice as many requests of an edge."""


class Prefetcher:
    """The windows of the plans, each at its `WindowPosition`. Used by one task.

    While one is in use, the next is on its way, and more while all of them stay within `prefetch_bytes`.
    `window_bytes`: limit of a single one, with the hits that the cache has lost and that are fetched with it.
    """

    def __init__(
        self, client: ArchiveClient, share: CacheShare, plans: EpochPlans, *, prefetch_bytes: int, window_bytes: int
    ) -> None:
        self._client = client
        self._share = share
        self._plans = plans
        self._prefetch_bytes = prefetch_bytes
        self._window_bytes = window_bytes
        self._ahead: deque[tuple[WindowPosition, WindowReader]] = deque()
        self._in_use: WindowReader | None = None
        self._opened_at: WindowPosition | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the windows in memory."""
        in_use = 0 if self._in_use is None else self._in_use.num_bytes
        return in_use + sum(reader.num_bytes for _, reader in self._ahead)

    async def is_here(self, position: WindowPosition) -> bool:
        """Whether `open` of the window at `position` would not wait: it has arrived, or there is none."""
        if position == self._opened_at:
            return True
        await self._client.drain()
        first = next((reader for each, reader in self._ahead if each == position), None)
        return first.is_complete if first is not None else await self._window(position) is None

    async def open(self, position: WindowPosition, *, wait: bool = True) -> WindowReader | None:
        """Use the window at `position`, and look ahead of it; None after the last one of its kind.

        Those before it are skipped. Without `wait`, None while it is on its way; it must then be one of the plan.
        """
        if position != self._opened_at:
            self.leave()
            while self._ahead and self._ahead[0][0] < position:
                self._ahead.popleft()[1].close()
            is_planned = await self._has_asked(position)
            assert is_planned or wait, "the plan has fewer samples"
            if not is_planned:
                return None
            if not wait:
                await self._client.drain()
                if not self._ahead[0][1].is_complete:
                    return None
            _, self._in_use = self._ahead.popleft()
            await self._in_use.arrive()
            self._opened_at = position
        await self.look_ahead(position)
        return self._in_use

    async def look_ahead(self, position: WindowPosition) -> None:
        """Take in what has arrived, and ask for what comes after `position`: one window, and more while they fit.

        Small windows, such as the held-out samples between two epochs, would otherwise leave the next too little time.
        """
        await self._client.drain()
        while len(self._ahead) < _MAX_AHEAD:
            following = await self._following(self._ahead[-1][0] if self._ahead else position)
            if following is None:
                return
            window_bytes = following[1].fetch.num_bytes
            if self._ahead and self._planned_bytes + window_bytes > self._prefetch_bytes:
                return
            await self._ask(*following)

    def leave(self) -> None:
        """Done with the window in use."""
        if self._in_use is not None:
            self._in_use.close()
            self._in_use = None
        self._opened_at = None

    def close(self) -> None:
        """Done with all windows: what is on its way will not be used."""
        self.leave()
        self._forget_ahead()

    def _forget_ahead(self) -> None:
        while self._ahead:
            self._ahead.pop()[1].close()

    @property
    def _planned_bytes(self) -> int:
        """What the windows in use and on their way will hold."""
        in_use = 0 if self._in_use is None else self._in_use.num_planned_bytes
        return in_use + sum(reader.num_planned_bytes for _, reader in self._ahead)

    async def _following(self, position: WindowPosition) -> tuple[WindowPosition, CachedWindow] | None:
        """The next window with samples, in the next epoch if need be; None when none is known yet."""
        while True:
            position = position._replace(window=position.window + 1)
            window = await self._window(position)
            if window is not None and window.num_samples:
                return position, window
            if window is None and not position.held_out:
                position = WindowPosition(position.epoch, True, -1)
            elif window is None:
                if not await self._plans.look_ahead(position.epoch + 1):
                    return None
                position = WindowPosition(position.epoch + 1, False, -1)

    async def _window(self, position: WindowPosition) -> CachedWindow | None:
        return await run_in_worker(self._plans.of(position.epoch).window, position)

    async def _has_asked(self, position: WindowPosition) -> bool:
        """Make the window at `position` the first on its way; False when there is none."""
        if not self._ahead or self._ahead[0][0] != position:
            window = await self._window(position)
            if window is None:
                return False
            self._forget_ahead()
            await self._ask(position, window)
        return True

    async def _ask(self, position: WindowPosition, window: CachedWindow) -> None:
        before = [reader for _, reader in self._ahead] + ([self._in_use] if self._in_use is not None else [])
        pending = np.concatenate([np.zeros(0, np.int64), *(reader.arrivals() for reader in before)])
        epoch = self._plans.of(position.epoch)
        reads = None if position.held_out else epoch.reads
        reader = WindowReader(window, epoch.train_split, self._client, self._share, self._window_bytes, reads)
        self._ahead.append((position, reader))
        await reader.ask(pending)
