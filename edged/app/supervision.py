"""A node's lifecycle: start, readiness, and the order of stopping.

1. The node's own topics are created if missing; then, if no older run of the node is alive, all services run. Waiting
   for Kafka is part of that work, not of start-up: a node whose broker is away is ready, degraded, and reports it.
2. SIGHUP has the topology read again (`reload`). Before that it is held back, and after that without effect, so that
   it ends no node. The end of the terminal in which a node was started, which is a SIGHUP, too, stops the node, unless
   by `nohup`.
3. SIGTERM or SIGINT cancels the services once; each finishes its current step and saves what must not be lost.
4. The monitor stops last, so that the watchdog is fed during the final checkpoint.
5. A service that fails stops the others cleanly; the process ends with 1 and systemd starts it again, or with
   EX_CONFIG when restarting does not help. An older run of the node does the same, with EX_TEMPFAIL.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Protocol

from edged import __version__
from edged.access import why_unusable
from edged.adapters.host.terminal import has_terminal
from edged.app import topics
from edged.app.reload import Reload
from edged.domain.topology import Topology
from edged.domain.topology.topics import topics_of
from edged.errors import AlreadyRunning, AnotherVersion, StateFolderRefused, TopologyMismatch
from edged.log import leaves, log_crash, logger
from edged.ports import Health, Host, LaneClock, Log, Notifier, Progress, Statistics
from edged.services.node.health import HealthBoard
from edged.services.node.monitor import Monitor
from edged.services.node.presence import Presence
from edged.settings import Timing, TopologyInUse


class Service(Protocol):
    """A part of a node that runs as a task of its own and is watched."""

    async def run(self) -> None:
        """Work until cancelled; raise only what a restart may resolve."""

    def progress(self) -> Progress:
        """Progress since the start, for the watchdog."""

    def statistics(self) -> Statistics:
        """This service's part of the monitor's series."""


def announce(topology: Topology) -> None:
    """Log the first line of a node, before anything is opened."""
    logger().info("life.started", version=__version__, pid=os.getpid(), topology=topology.site)


def warn_of_cache(folder: Path) -> None:
    """Log that the node's cache folder cannot be written, if so: it works without."""
    if reason := why_unusable(folder):
        logger().warning("cache.unusable", folder=str(folder), reason=reason)


async def supervise(
    in_use: TopologyInUse,
    node: str,
    services: Mapping[str, Service],
    *,
    read: Callable[[], Topology],
    log: Log,
    health: HealthBoard,
    host: Host,
    notifier: Notifier,
    timing: Timing,
    memory_limit: int | None = None,
    lanes: LaneClock | None = None,
    presence: Presence | None = None,
) -> int:
    """Run the node's services until a signal arrives or one of them fails; the process's exit code.

    `read`: reads the topology file again, see `Reload`.
    `presence`: ends the node when an older run of it is alive, and lets its services start when it is not.
    """
    started_s = time.monotonic()
    monitor = Monitor(
        host,
        health,
        notifier,
        lambda: reduce(add, (service.statistics() for service in services.values()), Statistics()),
        {name: service.progress for name, service in services.items()},
        memory_limit=memory_limit,
        lanes=lanes,
        timing=timing,
        sample_s=lambda: in_use.topology.log.resources_s or timing.sample_s,
    )
    reload = Reload(in_use, read, notifier)
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(monitor.run(), name="monitor")
            reloading = group.create_task(reload.run(), name="reload")
            working = group.create_task(_work(in_use, node, services, log, health, timing, presence), name="services")
            with _handled_signals((reloading, working), reload, notifier, timing):
                notifier.ready()
                logger().info("life.ready", degraded=health.is_degraded)
                await asyncio.wait([working])
            reloading.cancel()
            watching.cancel()
        code = 0
    except* AlreadyRunning as failures:
        for failure in leaves(failures):
            logger().error("life.refused", reason=str(failure))
        code = os.EX_TEMPFAIL
    except* Exception as failures:  # noqa: BLE001 - logged in full, then the process ends
        log_crash(failures)
        code = _exit_code(failures)
    logger().info(
        "life.stopped",
        uptime_s=round(time.monotonic() - started_s, 3),
        peak_rss_bytes=host.sample().peak_rss_bytes,
        exit_code=code,
    )
    return code


async def _work(
    in_use: TopologyInUse,
    node: str,
    services: Mapping[str, Service],
    log: Log,
    health: Health,
    timing: Timing,
    presence: Presence | None,
) -> None:
    topology = in_use.topology
    own = topics_of(topology, node)
    await topics.ensure(own, log)
    async with _present(presence), asyncio.TaskGroup() as group:
        group.create_task(topics.look_after(in_use, node, log, topology, own), name="topics")
        group.create_task(topics.report_missing(in_use, node, log, health, timing.topics_s), name="missing topics")
        for name, service in services.items():
            group.create_task(_run(name, service), name=name)


@contextlib.asynccontextmanager
async def _present(presence: Presence | None) -> AsyncIterator[None]:
    """Inside, the node is admitted and beats; what runs inside is cancelled when an older run of it is alive."""
    if presence is None:
        yield
        return
    try:
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(presence.run(), name="presence")
            await presence.admitted.wait()
            yield
            beating.cancel()
    finally:
        await presence.leave()


async def _run(name: str, service: Service) -> None:
    """Raises RuntimeError when a cancellation that is not the node's ends the service.

    Libraries let those of their own tasks through, and a task group takes a task that one has ended for a stopped one:
    the node would go on without the service, or end as if it had been asked to.
    """
    task = asyncio.current_task()
    assert task is not None
    try:
        await service.run()
    except asyncio.CancelledError as cancelled:
        if task.cancelling():
            raise
        raise RuntimeError(f"a cancellation that nobody asked for has ended the service {name}") from cancelled


def _exit_code(failures: BaseExceptionGroup[Exception]) -> int:
    """EX_CONFIG: restarting does not help, and systemd does not (RestartPreventExitStatus)."""
    if failures.subgroup((TopologyMismatch, AnotherVersion)):
        return os.EX_CONFIG
    return os.EX_CANTCREAT if failures.subgroup(StateFolderRefused) else 1


class _handled_signals(contextlib.AbstractContextManager[None]):  # noqa: N801 - used as a function
    """Inside, SIGHUP requests a reload, also one that was held back before; afterwards it has no effect.

    The first SIGTERM or SIGINT, or the end of the terminal, cancels `tasks`; a second one, or `stop_s`, ends the
    process at once.
    """

    def __init__(
        self, tasks: Sequence["asyncio.Task[None]"], reload: Reload, notifier: Notifier, timing: Timing
    ) -> None:
        self._tasks = tasks
        self._reload = reload
        self._notifier = notifier
        self._timing = timing
        self._is_stopping = False
        outlives_terminal = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as nohup(1) leaves it
        self._ends_with_terminal = has_terminal() and not outlives_terminal

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def __exit__(self, *error: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        self._is_stopping = True  # a hangup has no effect; its handler stays, for not every thread holds it back

    def _hang_up(self) -> None:
        if self._is_stopping:
            return
        if self._ends_with_terminal and not has_terminal():
            self._stop(signal.SIGHUP)
        else:
            self._reload.request()

    def _stop(self, number: signal.Signals) -> None:
        if self._is_stopping:
            _end_now("a second signal")
        self._is_stopping = True
        logger().info("life.stopping", signal=signal.Signals(number).name)
        self._notifier.stopping()
        for task in self._tasks:
            task.cancel()
        asyncio.get_running_loop().call_later(self._timing.stop_s, _end_now, f"no end within {self._timing.stop_s} s")


def _end_now(reason: str) -> None:
    """What is durable stays durable; the next start resumes from it."""
    logger().error("life.abandoned", reason=reason)
    os._exit(1)
