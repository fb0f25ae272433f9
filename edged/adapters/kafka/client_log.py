"""aiokafka's own log lines as `kafka.client` events, each at most once a minute.

While a broker is away aiokafka logs an error at every try of every client. `health.degraded` reports that already, so
the client's lines about lost connections have level debug, as those about other members of a group have.
"""

import logging
import time
from dataclasses import dataclass
from typing import Self

from edged.log import Throttle, logger

_WINDOW_S = 60.0
_USUAL_MESSAGES = (
    "Unable connect",
    "Unable to request metadata",
    "Unable to update metadata",
    "Failed fetch messages",
    "Failed fetch offsets",
    # of a group's member, while others join and leave
    "Heartbeat failed",
    "Heartbeat session expired",
    "Heartbeat send request failed",
    "Error sending",
    "Marking the coordinator dead",
    "Group Coordinator Request failed",
    "LeaveGroup request failed",
)


@dataclass(frozen=True, slots=True)
class ClientProblem:
    """A warning or an error that aiokafka logged.

    `error`: the exception in it, if any: aiokafka raises another one, without it. `where`: the broker's address, or its
    node id.
    """

    message: str
    error: BaseException | None = None
    where: str | int = ""


class ClientLog(logging.Handler):
    """Handles the logger `aiokafka` while it is entered; `last_problem` is its newest warning or error."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.last_problem: ClientProblem | None = None
        self._throttle = Throttle(_WINDOW_S)

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
            self.last_problem = _problem(message, record.args if isinstance(record.args, tuple) else ())
        suppressed = self._throttle.pass_on((record.name, str(record.msg)), time.monotonic())
        if suppressed is None:
            return
        is_warning = record.levelno >= logging.WARNING and not message.startswith(_USUAL_MESSAGES)
        log = logger().warning if is_warning else logger().debug
        log("kafka.client", message=message, logger=record.name, suppressed=suppressed)


def _problem(message: str, args: tuple[object, ...]) -> ClientProblem:
    error = next((arg for arg in args if isinstance(arg, BaseException)), None)
    match args:
        case (str() as host, int() as port, BaseException()):
            return ClientProblem(message, error, f"{host}:{port}")
        case (int() as node, BaseException()):
            return ClientProblem(message, error, node)
        case _:
            return ClientProblem(message, error)


_AIOKAFKA = logging.getLogger("aiokafka")
