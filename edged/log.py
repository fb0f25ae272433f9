"""Logging: one JSON object per line on stderr, or readable lines on a terminal.

Covers set-up and the loggers' making. What may be logged is `edged.events`' subject.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from edged.events import EVENTS

Fields = MutableMapping[str, Any]
_LEAST_LEVEL = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SYSLOG_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def logger() -> structlog.typing.FilteringBoundLogger:
    """A logger: `logger().info("train.epoch", epoch=3)`. The event must stand in `events.EVENTS`."""
    result: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return result


def configure(
    *,
    node: str,
    tier: str,
    run_id: str,
    level: str = "info",
    stream: TextIO | None = None,
    pretty: bool | None = None,
) -> None:
    """Set up the process's log on `stream` (stderr), for people when it is a terminal or `pretty` says so."""
    stream = stream or sys.stderr
    pretty = stream.isatty() if pretty is None else pretty
    structlog.contextvars.clear_contextvars()
    structlog.configure(
        processors=[
            _whose(node, tier, run_id),
            structlog.processors.add_log_level,
            _timestamp(pretty=pretty),
            _check,
            *_renderers(pretty=pretty, to_journal="JOURNAL_STREAM" in os.environ and stream is sys.stderr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEAST_LEVEL[level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def _whose(node: str, tier: str, run_id: str) -> structlog.typing.Processor:
    common = {"node": node, "tier": tier, "run_id": run_id}

    def add(_logger: Any, _method: str, fields: Fields) -> Fields:
        return {**common, **fields}

    return add


def _timestamp(*, pretty: bool) -> structlog.typing.Processor:
    if pretty:
        return structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="ts")

    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts")

    def to_milliseconds(logger: Any, method: str, fields: Fields) -> Fields:
        fields = dict(stamp(logger, method, fields))
        fields["ts"] = fields["ts"][:23] + "Z"
        return fields

    return to_milliseconds


def _check(_logger: Any, _method: str, fields: Fields) -> Fields:
    """An event outside the schema is a defect: raise in tests (EDGED_STRICT_LOG), let it pass in the field."""
    if "EDGED_STRICT_LOG" in os.environ:
        spec = EVENTS[fields["event"]]
        given = {key for key in fields if key not in {"ts", "level", "event", "node", "tier", "run_id"}}
        unknown, missing = given - spec.fields.keys(), spec.fields.keys() - spec.optional - given
        if unknown or missing:
            raise ValueError(f"event {fields['event']}: unknown fields {unknown}, missing {missing}")
    return fields


def _renderers(*, pretty: bool, to_journal: bool) -> list[structlog.typing.Processor]:
    if pretty:
        return [structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ, timestamp_key="ts", sort_keys=False)]
    json = structlog.processors.JSONRenderer()
    if not to_journal:
        return [json]

    def with_priority(logger: Any, method: str, fields: Fields) -> str:
        return f"<{_SYSLOG_PRIORITY[fields['level']]}>{json(logger, method, fields)!s}"

    return [with_priority]
