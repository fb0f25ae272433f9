"""When the disk tier may be written, and how many bytes it may hold.

Covers the write budget of a day, leaving alone a disk that refused, and finding out again what it takes. See also:
`domain.cache.write_budget` for the budget, `cache` for what is written.
"""

import asyncio
from collections.abc import Callable

from edged.domain.cache.write_budget import WriteBudget
from edged.errors import StorageError
from edged.log import logger
from edged.ports import DiskTier

SPILL_BYTES = 256 * 1024
"""Bytes of entries in one batch to the disk: each transaction writes pages besides the entries' own."""

RETRY_S = 60.0
"""How long a disk that refused is left alone."""

_FIRST_AMPLIFICATION = 4.0
"""Bytes written for each byte stored, until it has been measured."""


class DiskGate:
    """The limits of one disk tier: `disk_bytes`, and `written_bytes_per_day`, if given. Used by one task.

    Without `disk`, nothing may be written. `written_bytes_per_day` is asked before each batch.
    `max_bytes`: what the disk may hold at most; `limit_bytes`: the same, or less after it refused a batch. Each batch
    that it takes from then on raises the limit, so that the true limit is found again. `wall_time`: Unix time, by which
    a restart resumes the budget.
    """

    def __init__(
        self,
        disk: DiskTier | None,
        disk_bytes: int,
        written_bytes_per_day: Callable[[], int] | None,
        wall_time: Callable[[], float],
    ) -> None:
        self._disk = disk
        self._given_bytes = disk_bytes
        self._written_bytes_per_day = written_bytes_per_day
        self._wall_time = wall_time
        self._budget: WriteBudget | None = None
        self._stored_bytes = 0  # since start, whether or not they are there still
        self._refused_until_s = 0.0
        self._is_refused = False
        self._is_over_budget = False
        self.max_bytes = self.limit_bytes = 0 if disk is None else min(disk_bytes, disk.capacity_bytes)

    def restore(self, now_s: float) -> None:
        """Resume the write budget of an earlier run, at `now_s` of the event loop's clock; blocking."""
        if self._disk is not None and self._written_bytes_per_day is not None:
            self._budget = WriteBudget.restored(
                self._written_bytes_per_day(), self._disk.note, now_s, self._wall_time()
            )

    @property
    def is_open(self) -> bool:
        """Whether neither the disk nor the budget refused the last batch."""
        return not (self._is_refused or self._is_over_budget)

    def allows(self, num_bytes: int) -> bool:
        """Whether a batch may be written now: the disk is not left alone, and the budget has the bytes it will take."""
        if self._disk is None or asyncio.get_running_loop().time() < self._refused_until_s:
            return False
        if self._budget is None or self._written_bytes_per_day is None:
            return True
        self._budget.budget_bytes_per_day = self._written_bytes_per_day()
        is_measured = self._stored_bytes > SPILL_BYTES
        amplification = self._disk.written_bytes / self._stored_bytes if is_measured else _FIRST_AMPLIFICATION
        allowed = self._budget.allows(int(num_bytes * amplification), asyncio.get_running_loop().time())
        if not allowed and not self._is_over_budget:
            logger().warning(
                "cache.write_budget",
                budget_bytes_a_day=self._budget.budget_bytes_per_day,
                written_bytes=self._disk.written_bytes,
            )
        self._is_over_budget = not allowed
        return allowed

    def record(self, *, stored_bytes: int, written_bytes: int) -> None:
        """A transaction stored entries of `stored_bytes`, and wrote `written_bytes` to the disk's device for it."""
        assert self._disk is not None, "nothing is written without a disk"
        self._stored_bytes += stored_bytes
        if self._budget is not None:
            self._budget.spend(written_bytes, asyncio.get_running_loop().time())
            self._disk.set_note(self._budget.state(self._wall_time()))
        self.max_bytes = min(self._given_bytes, self._disk.capacity_bytes)
        self.limit_bytes = min(self.limit_bytes, self.max_bytes)

    def refuse(self, error: StorageError, held_bytes: int) -> None:
        """The disk, which holds `held_bytes`, refused a batch: leave it alone for a while, then try one batch more."""
        self._refused_until_s = asyncio.get_running_loop().time() + RETRY_S
        self.limit_bytes = min(self.max_bytes, held_bytes + 2 * SPILL_BYTES)
        if not self._is_refused:
            logger().warning("cache.disk_full", err=str(error))
        self._is_refused = True

    def accept(self) -> None:
        """The disk took a batch: its limit rises as long as it does."""
        self.limit_bytes = min(self.max_bytes, self.limit_bytes + 2 * SPILL_BYTES)
        if self._is_refused:
            logger().info("cache.disk_recovered")
        self._is_refused = False
