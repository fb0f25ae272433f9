"""Reads the topology file again when asked to, and takes what a running node can take of it: all of it, or nothing.

Services are not told: they read what they need of the topology in use when they need it. See also:
`domain.topology.changes`, which decides.
"""

import asyncio
from collections.abc import Callable, Sequence

from edged.aio import run_in_worker
from edged.domain.topology import Topology
from edged.domain.topology.changes import changes
from edged.errors import ConfigError
from edged.log import logger, output
from edged.ports import Notifier
from edged.settings import TopologyInUse

_MAX_LISTED = 100
"""Problems or keys in a line of the log: journald splits longer ones."""

_MAX_LENGTH = 400
"""Characters of each."""


class Reload:
    """Keeps `in_use` what `read` reads, as often as it is requested. `read` blocks, and raises ConfigError."""

    def __init__(self, in_use: TopologyInUse, read: Callable[[], Topology], notifier: Notifier) -> None:
        self._in_use = in_use
        self._read = read
        self._notifier = notifier
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Have the file read once more, from now on. Any number of requests during a reading are one more reading."""
        self._requested.set()

    async def run(self) -> None:
        """Serve requests until cancelled. Cancelled: a reading ends first, and has no effect."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            self._notifier.reloading()
            await self._reload()
            self._notifier.ready()

    async def _reload(self) -> None:
        try:
            read = await run_in_worker(self._read)
        except ConfigError as error:
            log_refused(error)
            return
        found = changes(self._in_use.topology, read)
        if found.refused:
            logger().error("config.refused", reason="this takes a restart", **_listed("keys", found.refused))
            return
        self._in_use.replace(read)
        output.set_level(read.log.level)
        logger().info("config.reloaded", **_listed("keys", found.taken))


def log_refused(error: ConfigError) -> None:
    """Log what is wrong with the topology file."""
    problems = [str(problem) for problem in error.problems]
    logger().error("config.refused", reason="the file is wrong", **_listed("problems", problems))


def _listed(name: str, items: Sequence[str]) -> dict[str, list[str] | int]:
    omitted = len(items) - _MAX_LISTED
    listed = [item[:_MAX_LENGTH] for item in items[:_MAX_LISTED]]
    return {name: listed} | ({"omitted": omitted} if omitted > 0 else {})
