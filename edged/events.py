"""Every event that edged logs: its name, what it says, and its fields with their types.

The published schema (`edged schema --events`) is made from this table, and a test holds every logged line to it.
Units stand in the names of the fields. Payloads and secrets are never fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_JSON_TYPE: Mapping[type, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """What the event says, and its own fields beside those that every line has."""

    doc: str
    fields: Mapping[str, type]
    optional: frozenset[str] = frozenset()


def event(doc: str, *, optional: tuple[str, ...] = (), **fields: type) -> Event:
    """An Event; every field is required but those named in `optional`."""
    return Event(doc, fields, frozenset(optional))


COMMON: Mapping[str, type] = {"ts": str, "level": str, "event": str, "node": str, "tier": str, "run_id": str}
"""Fields of every line: UTC time (ISO 8601, milliseconds), level, event name, and whose line it is."""

EVENTS: Mapping[str, Event] = {
    # life: the process
    "life.started": event("The process runs.", version=str, pid=int, topology=str),
    "life.ready": event("Start-up is over; degraded when something outside is missing.", degraded=bool),
    "life.stopping": event("A stop was asked for; intake ends.", signal=str),
    "life.stopped": event(
        "The process ends.", uptime_s=float, peak_rss_bytes=int, exit_code=int
    ),
    "life.crashed": event("A service failed; the process ends and systemd starts it again.", err=str, err_type=str),
    "health.degraded": event("A part outside does not answer.", part=str, reason=str),
    "health.recovered": event("The part answers again.", part=str, degraded_s=float),
    # kafka
    "kafka.connected": event("The broker answers.", bootstrap=str, idempotent=bool),
    "kafka.gap": event(
        "Records were deleted before they were read; reading goes on behind them.",
        topic=str, partition=int, wanted_offset=int, next_offset=int,
    ),
    "kafka.client": event(
        "Something the Kafka client said; `suppressed` times more since the last such line.",
        message=str, logger=str, suppressed=int,
    ),
    # ingest
    "ingest.rejected": event(
        "A device's record cannot be used; it is in the dead-letter topic. Others like it were left out of the log.",
        device=str, partition=int, offset=int, reason=str, detail=str, size_bytes=int, suppressed=int,
    ),
    "ingest.reading": event("The devices' topics are read.", partitions=int),
    # uplink
    "uplink.resumed": event("Intake goes on behind the stream's last pack.", stream=str, next_offset=int),
    "uplink.malformed": event(
        "A record in the edge's own archive topic is not a pack of this edge; it is passed over.",
        topic=str, offset=int, err=str,
    ),
    "uplink.rewound": event(
        "The trainer's place lies beyond the archive topic's end: the topic was made anew.",
        topic=str, wanted_offset=int, next_offset=int,
    ),
    # epoch: the data of an epoch on its way from the archive
    # train
    # checkpoint
    # infer
    # archive
    # sensor
    # res: the host's and the process's resources
}  # fmt: skip


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one log line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of edged's log",
        "oneOf": [_line_schema(name, spec) for name, spec in sorted(EVENTS.items())],
    }


def _line_schema(name: str, spec: Event) -> dict[str, Any]:
    properties: dict[str, Any] = {key: {"type": _JSON_TYPE[kind]} for key, kind in COMMON.items()}
    properties["event"] = {"const": name}
    properties |= {key: {"type": _JSON_TYPE[kind]} for key, kind in spec.fields.items()}
    return {
        "description": spec.doc,
        "type": "object",
        "properties": properties,
        "required": [*COMMON, *(key for key in spec.fields if key not in spec.optional)],
        "additionalProperties": False,
    }
