"""Which faults explain a warning or an error of a node: what none of its round explains is a defect.

Covers the table and its bookkeeping. Knows no node and draws nothing.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping

from edged.cli.demo.processes import LogLine

START = "start"
"""The site begins: as a fault of the time before the first round."""

BUSY = "busy"
"""The machine has far more to do than it can: for this alone, answers may be late."""

RECREATED = "recreated"
"""A topic was recreated, in this round or before."""

_BUSY_LOAD = 2.5
"""Processes that want each core, on a mean of the last minute. Alone on two cores, the site is below it."""

_LEVELS = frozenset({"warning", "error", "critical"})

_KAFKA = frozenset({"broker_away", "broker_frozen", "network", "cuts", START, BUSY})
"""The broker answers late, or not."""

_ENDS = frozenset({"kill", "stop"})
_STARTS = frozenset({START, "kill here", "stop here", "disk here"})
"""The node starts; one whose disk fails just then ends, and is started again."""

_LATE = _KAFKA | _ENDS | {"freeze", "disk"}
"""Somebody in the site answers late, or not."""

_ARCHIVE = _KAFKA | {"kill vault", "stop vault", "freeze vault", "disk vault"}
"""The archive answers late, or not."""

_DISK = frozenset({"disk here"})
_TOPICS = frozenset({"recreate", "reload", START})
"""A topic is not there for a moment."""

_OF_A_START = frozenset({"config.warned", "kernels.left_out", "kernels.unavailable"})
"""A node that was ended in one round may only start in the next, when nothing waits for it."""

EXPLAINED_BY: Mapping[str, frozenset[str]] = {
    "archive.bad_request": _ARCHIVE,  # of an edge without an answer for long there are more requests than may wait
    "archive.rejected": frozenset({"recreate"}),  # a pack for the log that was there before; it is sent again
    "archive.unanswered": frozenset({"disk vault"}),
    "cache.close_failed": _DISK,
    "cache.disk_full": _DISK,
    "cache.recreated": _DISK,
    "cache.unusable": _DISK,
    "checkpoint.failed": _DISK,
    "checkpoint.made_room": _DISK,
    "checkpoint.model_skipped": _DISK,
    "config.refused": frozenset({"reload"}),
    # The file has a warning: an archive that trims what is trained on live.
    "config.warned": _STARTS | {"reload"},
    "epoch.asked_again": _ARCHIVE,
    "epoch.memo_failed": _DISK,
    "epoch.memo_skipped": _DISK,
    "epoch.missing": frozenset({"disk vault"}),
    "exchange.abandoned": _LATE,
    "exchange.absent": _LATE,
    "exchange.closed": _LATE,
    "health.degraded archive": _ARCHIVE,
    "health.degraded archive_read": frozenset({"disk vault"}),
    "health.degraded archive_topics": frozenset({"recreate"}),  # what was to be deleted is gone
    "health.degraded cache": _DISK,
    "health.degraded clock": frozenset({"clock here"}),
    "health.degraded device": _TOPICS,
    "health.degraded disk": _DISK,
    "health.degraded kafka": _KAFKA,
    "health.degraded topic": _TOPICS,
    "infer.model_unproven": frozenset({START, BUSY, "freeze here", "disk here"}),
    # Poison of a round before is met again where a device's topic is read from an earlier place.
    "ingest.rejected": _ENDS | {"poison", "recreate pi-a", "recreate pi-b"},
    "kafka.another_log": frozenset({"recreate"}),
    "kafka.client": _TOPICS,
    "kafka.gap": _LATE,  # live training lags behind an archive that trims
    "kafka.held_up": frozenset({"foreign"}),
    "kafka.topic_setting": frozenset({RECREATED}),  # without the settings that the nodes give their topics
    "kernels.left_out": _STARTS,
    "kernels.unavailable": _STARTS,  # a machine where none were compiled: each start says so
    "life.waiting": _KAFKA,
    "presence.unknown": _KAFKA,
    "train.live_rewound": frozenset({"recreate"}),
    "uplink.another_log": frozenset({"recreate"}),
    "uplink.rewound": frozenset({"recreate"}),
}
"""Events, with the part for `health.degraded`; and the faults that bring them about: by kind, or by kind and target,
which is `here` where it must be the node itself."""


class Excuses:
    """The faults of the present round, and what they have explained so far. Call `begin` when a round does."""

    def __init__(self) -> None:
        self.explained: Counter[str] = Counter()
        """Lines, by event; with `BUSY` those that nothing else explains."""
        self._faults = frozenset({START})
        self._targets: frozenset[tuple[str, str]] = frozenset()
        self._before: frozenset[tuple[str, str]] = frozenset()
        self._told: set[tuple[str, str]] = set()

    def begin(self, faults: Iterable[tuple[str, str]]) -> None:
        """A round with these faults, by kind and target, begins."""
        self._before, self._targets = self._targets, frozenset(faults)
        names = {name for kind, target in self._targets for name in (kind, f"{kind} {target}")}
        is_recreated = RECREATED in self._faults or "recreate" in names
        self._faults = frozenset(names | ({RECREATED} if is_recreated else set()))
        self._told.clear()

    def judge(self, node: str, line: LogLine) -> str:
        """What is wrong with the line, in a sentence; "" when nothing is, or it was told in this round."""
        if line["level"] not in _LEVELS:
            return ""
        event = _name(line)
        explanations = EXPLAINED_BY.get(event, frozenset())
        targets = self._targets | (self._before if event in _OF_A_START else frozenset())
        here = {f"{kind} here" for kind, target in targets if target == node}
        if (self._faults | here) & explanations:
            self.explained[event] += 1
            return ""
        if BUSY in explanations and is_busy():
            self.explained[f"{event} ({BUSY})"] += 1
            return ""
        if (node, event) in self._told:
            return ""
        self._told.add((node, event))
        return f"{node} logged what none of {sorted(self._faults)} explains: {dict(line)}"


def is_busy() -> bool:
    """Whether the machine has far more to do than it can."""
    return os.getloadavg()[0] > _BUSY_LOAD * (os.cpu_count() or 1)


def _name(line: LogLine) -> str:
    """The event, with the part that it is about: of a source or an edge, whatever its name."""
    return f"{line['event']} {line['part'].partition('/')[0]}" if line["event"] == "health.degraded" else line["event"]
