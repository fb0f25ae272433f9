"""aiokafka's own log lines as `kafka.client` events, each at most once a minute.

While a broker is away aiokafka logs an error at every try of every client. `health.degraded` tells that in plain words,
so what the client says of lost connections is for debugging alone.
"""

import logging
import time
from dataclasses import dataclass
from typing import Self

from edged.log import logger

_QUIET_S = 60.0
_OF_LOST_CONNECTIONS = (
    "Unable connect",
    "Unable to request metadata",
    "Unable to update metadata",
    "Failed fetch messages",
    "Failed fetch offsets",
)
_MAX_KINDS = 256


@dataclass
class _Kind:
    """One message template of one logger."""

    last_s: float
    suppressed: int = 0


class ClientLog(logging.Handler):
    """Handles the logger `aiokafka` while it is entered; `last_problem` is its newest warning or error."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.last_problem = ""
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def __enter__(self) -> Self:
        _AIOKAFKA.addHandler(self)
        _AIOKAFKA.propagate = False
        return self

    def __exit__(self, *_exc: object) -> None:
        _AIOKAFKA.removeHandler(self)
        _AIOKAFKA.propagate = not _AIOKAFKA.handlers

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.last_problem = message
        suppressed = self._suppressed_before(record)
        if suppressed is None:
            return
        is_grave = record.levelno >= logging.WARNING and not message.startswith(_OF_LOST_CONNECTIONS)
        log = logger().warning if is_grave else logger().debug
        log("kafka.client", message=message, logger=record.name, suppressed=suppressed)

    def _suppressed_before(self, record: logging.LogRecord) -> int | None:
        """How many like it were kept back since the last was let through; None: this one is kept back too."""
        now_s = time.monotonic()
        kind = (record.name, str(record.msg))
        known = self._kinds.get(kind)
        if known is not None and now_s - known.last_s < _QUIET_S:
            known.suppressed += 1
            return None
        if len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = _Kind(now_s)
        return known.suppressed if known else 0


_AIOKAFKA = logging.getLogger("aiokafka")
