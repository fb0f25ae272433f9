"""Which of the site's work is this archive node's: the part that a group of nodes leaves to it, or all.

Covers what changes, and when a part is given away. See also: `domain.archive.sharing` (who gets what).
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Iterator

from edged.log import logger
from edged.ports import Log, Progress, Statistics, TopicPartition

_MAX_NAMED = 20
"""In a line."""


class Share:
    """The partitions of archive topics and of the requests' that this node works on now.

    Whoever works on them reads them each time: they change at any await.
    """

    def __init__(self, held: Iterable[TopicPartition] = ()) -> None:
        self._held = frozenset(held)
        self._changed = asyncio.Event()
        self._num_workers = 0

    @property
    def held(self) -> frozenset[TopicPartition]:
        """Always the same object until it is replaced."""
        return self._held

    def replace(self, held: frozenset[TopicPartition]) -> None:
        """Work on these from now on."""
        self._held = held
        self._tell()

    async def other_than(self, known: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """What is held once that is not `known`."""
        while self._held == known:
            await self._changed.wait()
        return self._held

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Inside, something works on what is held, and may finish it although it is cancelled."""
        self._num_workers += 1
        try:
            yield
        finally:
            self._num_workers -= 1
            self._tell()

    async def is_finished(self) -> None:
        """Wait until nobody works on it."""
        while self._num_workers:
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Sharing:
    """Keeps the share of a node that is one of several, as a member of their group."""

    def __init__(self, log: Log, share: Share, group: str, topics: Collection[str]) -> None:
        """`topics`: all that the nodes share."""
        self._log = log
        self._share = share
        self._group = group
        self._topics = topics
        self._num_changes = 0

    async def run(self) -> None:
        """Follow the group until cancelled. Cancelled: leave it once the work on the share is finished."""
        async with self._log.join(self._group, self._topics) as membership:
            try:
                while True:
                    self._take(await membership.other_than(self._share.held))
            except asyncio.CancelledError:
                await self._share.is_finished()
                raise

    def progress(self) -> Progress:
        """Idle always: it waits for the group."""
        return Progress(self._num_changes, idle=True)

    def statistics(self) -> Statistics:
        return Statistics(held_partitions=len(self._share.held))

    def _take(self, held: frozenset[TopicPartition]) -> None:
        before = self._share.held
        self._share.replace(held)
        self._num_changes += 1
        for event, partitions in (("archive.revoked", before - held), ("archive.assigned", held - before)):
            if partitions:
                names = [f"{topic}/{number}" for topic, number in sorted(partitions)]
                omitted = {"omitted": len(names) - _MAX_NAMED} if len(names) > _MAX_NAMED else {}
                logger().info(event, partitions=names[:_MAX_NAMED], **omitted, held=len(held))
