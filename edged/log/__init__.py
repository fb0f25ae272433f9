"""What edged's modules log with: loggers, throttling, and the lines of a crash.

Loads neither structlog nor the table of events: a device's script that logs nothing pays for neither. See also:
`log.output` (how a process's log looks, and where it goes) and `edged.events` (what edged may log).
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:  # see above
    from structlog.typing import FilteringBoundLogger

Fields = MutableMapping[str, Any]

_MAX_MESSAGE = 2_000
"""Characters kept of a crash's message."""

_run_id = ""


def logger() -> "FilteringBoundLogger":
    """A logger: `logger().info("train.epoch", epoch=3)`. The event must be in `events.EVENTS`.

    `exc_info=error` becomes the text field `traceback`, which the event must have. In a program without
    `output.configure`, such as a device's script, only warnings and errors are logged, on stderr: stdout is the
    program's.
    """
    structlog = sys.modules.get("structlog")
    is_configured = structlog is not None and structlog.is_configured()
    return cast("FilteringBoundLogger", structlog.get_logger() if structlog and is_configured else _UNCONFIGURED)


class _Unconfigured:
    """Drops debug and info; the first warning loads structlog."""

    def debug(self, event: str, **fields: Any) -> None: ...

    def info(self, event: str, **fields: Any) -> None: ...

    def warning(self, event: str, **fields: Any) -> None:
        from edged.log.output import fallback  # noqa: PLC0415 - see the module

        fallback().warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        from edged.log.output import fallback  # noqa: PLC0415 - see the module

        fallback().error(event, **fields)


_UNCONFIGURED = _Unconfigured()


def run_id() -> str:
    """The `run_id` of the lines of this process; "" before `output.configure`."""
    return _run_id


def this_run(run_id: str) -> None:
    """Name this process's run, from now on."""
    global _run_id  # noqa: PLW0603 - the log is the process's
    _run_id = run_id


def bind(**fields: str) -> None:
    """Add these fields to each line of the current task and its worker threads whose event has them."""
    from structlog.contextvars import bind_contextvars  # noqa: PLC0415 - see the module

    bind_contextvars(**fields)


class Throttle:
    """At most `limit` lines of a kind per `window_s`; the first of the next window reports how many were suppressed.

    Knows no clock: `now_s` is in seconds of any one clock. Of more than `max_kinds` the least recently logged is
    forgotten, with its count, once its window is over; until then lines of further kinds are suppressed, and counted
    with the next line.
    """

    def __init__(self, window_s: float = 10.0, *, limit: int = 1, max_kinds: int = 1024) -> None:
        self._window_s = window_s
        self._limit = limit
        self._max_kinds = max_kinds
        self._windows: dict[Hashable, _Window] = {}  # oldest first
        self._overflow = 0

    def pass_on(self, kind: Hashable, now_s: float) -> int | None:
        """How many lines of the kind were suppressed since its last one; None when this one is to be suppressed."""
        window = self._windows.get(kind)
        if window is not None and now_s - window.start_s < self._window_s:
            if window.logged < self._limit:
                window.logged += 1
                return 0
            window.suppressed += 1
            return None
        self._windows.pop(kind, None)
        if len(self._windows) == self._max_kinds:
            oldest = next(iter(self._windows))
            if now_s - self._windows[oldest].start_s < self._window_s:
                self._overflow += 1
                return None
            del self._windows[oldest]
        self._windows[kind] = _Window(now_s)
        overflow, self._overflow = self._overflow, 0
        return overflow + (window.suppressed if window else 0)


@dataclass(slots=True)
class _Window:
    """The lines of one kind since `start_s`."""

    start_s: float
    logged: int = 1
    suppressed: int = 0


class ThrottledLog:
    """Logs what others can repeat without bound: of each event and kind one line in 10 s, by the event loop's clock.

    A kind names whose lines they are (a topic, a source, an edge), so that nobody's hide another's. The events have the
    field `suppressed`.
    """

    def __init__(self, throttle: Throttle | None = None) -> None:
        self._throttle = throttle or Throttle()

    def info(self, event: str, kind: Hashable, **fields: Any) -> None:
        """Log the event at this level, or count it."""
        self._log(logger().info, event, kind, fields)

    def warning(self, event: str, kind: Hashable, **fields: Any) -> None:
        """Log the event at this level, or count it."""
        self._log(logger().warning, event, kind, fields)

    def error(self, event: str, kind: Hashable, **fields: Any) -> None:
        """Log the event at this level, or count it."""
        self._log(logger().error, event, kind, fields)

    def _log(self, log: Callable[..., Any], event: str, kind: Hashable, fields: Fields) -> None:
        suppressed = self._throttle.pass_on((event, kind), _loop_time())
        if suppressed is not None:
            log(event, **fields, suppressed=suppressed)


def _loop_time() -> float:
    """The event loop's time; in a worker thread the clock that it has outside tests."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def log_crash(error: BaseException) -> None:
    """Log the exception that ends the process as `life.crashed`; of a group, the errors inside it."""
    failures = leaves(error)
    logger().error(
        "life.crashed",
        err="; ".join(str(leaf) for leaf in failures)[:_MAX_MESSAGE],
        err_type=", ".join(type(leaf).__name__ for leaf in failures)[:_MAX_MESSAGE],
        exc_info=error,
    )


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside a group, or the one."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def is_journal(stream: TextIO) -> bool:
    """Whether `stream` is the journal's socket, which systemd identifies in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
