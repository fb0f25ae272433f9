"""The process's log: one JSON object per line on stderr, or readable lines on a terminal.

Covers set-up and forms, and the lines of other libraries through the standard library's `logging` and `warnings`: all
leave the process in one schema. See also: `edged.events` (what edged may log).
"""

import io
import json
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any, TextIO, cast

import structlog

from edged import log
from edged.events import COMMON, EVENTS, json_type_matches
from edged.log import Throttle, is_journal, log_crash, logger

Fields = MutableMapping[str, Any]
_MIN_LEVEL = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SYSLOG_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

_SERIES = frozenset({"res.sample"})

_MAX_MESSAGE = 2_000
"""Characters kept of a foreign message."""

_HARMLESS = ("socket.send() raised exception.",)
"""asyncio's, after some writes to a connection that has just broken, of which its owner tells."""

_MAX_TRACEBACK = 16_000
"""Characters kept of a traceback, from its end, where the error is; journald splits lines above 48 KiB."""

_MAX_TEXT = 16_000
"""Characters kept of any text: some reasons quote input from outside."""


def configure(
    *,
    node: str,
    tier: str,
    run_id: str,
    level: str = "info",
    stream: TextIO | None = None,
    pretty: bool | None = None,
) -> None:
    """Set up the process's log on `stream` (stderr); readable lines if it is a terminal or with `pretty`.

    The standard library's log records, warnings, and an exception that ends the main thread become lines of it too,
    but not the records of loggers that have handlers of their own and do not propagate. May be called again.
    """
    log.this_run(run_id)
    stream = stream or sys.stderr
    pretty = stream.isatty() if pretty is None else pretty
    structlog.contextvars.clear_contextvars()
    structlog.configure(
        processors=[
            _bound,
            _traceback,
            _head({"node": node, "tier": tier, "run_id": run_id}, _local_time if pretty else _utc_time),
            _check,
            *(_for_people() if pretty else [_for_journal if is_journal(stream) else _to_json]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_MIN_LEVEL[level]),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _FaultTolerantStream(stream))),
        cache_logger_on_first_use=False,
    )
    _capture_foreign_lines()
    sys.excepthook = _log_uncaught


def set_level(level: str) -> None:
    """From now on, log from this level on, after `configure`."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_MIN_LEVEL[level]))


class _FaultTolerantStream:
    """Writes to `stream`; drops lines that it refuses, since the log must not stop the work.

    A full disk may accept lines again. A pipe without a reader never does, and is replaced by the null device.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = _unbuffered(stream)

    def write(self, text: str) -> None:
        self._attempt(self._stream.write, text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[..., object], *args: object) -> None:
        try:
            act(*args)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        except OSError:
            return


def _unbuffered(stream: TextIO) -> TextIO:
    """The same file without a buffer, if it is one: buffered lines that were refused would fail again at exit."""
    try:
        number = stream.fileno()
    except (OSError, AttributeError):
        return stream
    file, encoding = io.FileIO(number, "w", closefd=False), getattr(stream, "encoding", "utf-8")
    return io.TextIOWrapper(file, encoding=encoding, errors="backslashreplace", write_through=True)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log_crash(error)


def fallback() -> Any:
    """The logger of a program without `configure`: warnings and errors on stderr, readable."""
    return structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[_traceback, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )


class ForeignLines(logging.Handler):
    """Turns the standard library's log records into `log.foreign` lines, at most `limit` per `window_s` and source.

    A source is a logger's name and level. What is left out is counted in `suppressed` of the source's next line.
    """

    def __init__(self, limit: int = 10, window_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._throttle = Throttle(window_s, limit=limit)

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record, or count it. Never raises: a broken record is reported as `logging` does."""
        if record.msg in _HARMLESS:
            return
        try:
            suppressed = self._throttle.pass_on((record.name, record.levelno), self._clock())
            if suppressed is not None:
                self._log(record, suppressed)
        except Exception:  # noqa: BLE001 - a log line must never stop the work
            self.handleError(record)

    @staticmethod
    def _log(record: logging.LogRecord, suppressed: int) -> None:
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()[:_MAX_MESSAGE]}
        if suppressed:
            fields["suppressed"] = suppressed
        if record.exc_info and record.exc_info[1]:
            fields["exc_info"] = record.exc_info[1]
        log = logger().error if record.levelno >= logging.ERROR else logger().warning
        log("log.foreign", **fields)


def _capture_foreign_lines() -> None:
    """From level warning on: a library's information is for its own authors."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, ForeignLines)]:
        root.removeHandler(handler)
    root.addHandler(ForeignLines())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _bound(_logger: Any, _method: str, fields: Fields) -> Fields:
    """Add the task's bound fields (`bind`) that the event has."""
    spec = EVENTS.get(fields["event"])
    for key, value in structlog.contextvars.get_contextvars().items():
        if spec is not None and key in spec.fields:
            fields.setdefault(key, value)
    return fields


def _traceback(_logger: Any, _method: str, fields: Fields) -> Fields:
    error = fields.pop("exc_info", None)
    if error is True:
        error = sys.exception()
    if isinstance(error, BaseException):
        fields["traceback"] = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]
    return fields


def _head(common: dict[str, str], timestamp: Callable[[], str]) -> structlog.typing.Processor:
    """Begin each line with time, level, event and node; its own fields follow, as plain JSON values."""

    def add(_logger: Any, method: str, fields: Fields) -> Fields:
        event = fields.pop("event")
        own = {key: _plain(value) for key, value in fields.items()}
        return {"ts": timestamp(), "level": method, "event": event, **common, **own}

    return add


def _utc_time() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"


def _local_time() -> str:
    return time.strftime("%H:%M:%S")


def _plain(value: Any) -> Any:
    """The value as JSON. A number that is not finite becomes null: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _text(value[:_MAX_TEXT])
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, dict):
        return {_text(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _text(text: str) -> str:
    """`text` without halves of surrogate pairs, as a file's name that is no UTF-8 has: few can read JSON with them."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _check(_logger: Any, _method: str, fields: Fields) -> Fields:
    """An event outside the schema is a defect: raise in tests (EDGED_STRICT_LOG), ignore it in production."""
    if "EDGED_STRICT_LOG" in os.environ:
        spec = EVENTS[fields["event"]]
        given = fields.keys() - COMMON.keys()
        unknown, missing = given - spec.fields.keys(), spec.fields.keys() - spec.optional - given
        wrong = {key for key in given - unknown if not json_type_matches(fields[key], spec.fields[key])}
        if unknown or missing or wrong:
            raise ValueError(f"event {fields['event']}: unknown {unknown}, missing {missing}, of a wrong type {wrong}")
    return fields


def _to_json(_logger: Any, _method: str, fields: Fields) -> str:
    return json.dumps(fields, allow_nan=False)


def _for_journal(logger: Any, method: str, fields: Fields) -> str:
    """The line prefixed with its syslog priority, which journald removes again (sd-daemon(3)).

    The series has the lowest one, so that `journalctl -p info` shows what happened without it.
    """
    priority = _SYSLOG_PRIORITY["debug" if fields["event"] in _SERIES else fields["level"]]
    return f"<{priority}>{_to_json(logger, method, fields)}"


class ResourcesForPeople:
    """Shows a short `res.sample` line every 30 s; JSON has the whole series, once per second."""

    _INTERVAL_S = 30.0
    _RATES = ("trained", "ingested", "archived", "served", "predicted")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_s = -math.inf

    def __call__(self, _logger: Any, _method: str, fields: Fields) -> Fields:
        """The processor; raises structlog.DropEvent for a line that is left out."""
        if fields["event"] != "res.sample":
            return fields
        now_s = self._clock()
        if now_s < self._next_s:
            raise structlog.DropEvent
        self._next_s = now_s + self._INTERVAL_S
        return {key: fields[key] for key in COMMON} | self._short(fields)

    def _short(self, fields: Fields) -> dict[str, Any]:
        short: dict[str, Any] = {
            "cpu": f"{fields['process_cpu_percent']:.0f}%",
            "rss": f"{fields['rss_bytes'] >> 20}MiB",
        }
        for name in self._RATES:
            if rate := fields.get(f"{name}_samples_per_s"):
                short[name] = f"{rate:.0f}/s"
        if "wait_fraction" in fields:
            short["wait"] = f"{fields['wait_fraction']:.0%}"
        if (blocked := fields.get("blocked_fraction")) is not None:
            short["blocked"] = f"{blocked:.0%}"
        if "lag_records" in fields:
            short["lag"] = fields["lag_records"]
        return short


def _for_people() -> list[structlog.typing.Processor]:
    render = structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ, timestamp_key="ts", sort_keys=False)

    def traceback_below(_logger: Any, _method: str, fields: Fields) -> Fields:
        trace = fields.pop("traceback", "").rstrip()
        shown = {key: _printable(value) if isinstance(value, str) else value for key, value in fields.items()}
        return {**shown, "exception": trace} if trace else shown

    return [ResourcesForPeople(), traceback_below, render]


def _printable(text: str) -> str:
    """No control character of a label or a message reaches the terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class JournalErrors:
    """The journal for text that is no log line: each line goes there as an error (`journalctl -p err`)."""

    def __init__(self, journal: TextIO) -> None:
        self._journal = journal
        self._is_at_start = True

    def write(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            self._journal.write(f"<{_SYSLOG_PRIORITY['error']}>{line}" if self._is_at_start else line)
            self._is_at_start = line.endswith("\n")

    def flush(self) -> None:
        self._journal.flush()

    def isatty(self) -> bool:
        return False
