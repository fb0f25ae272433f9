"""A unit of a machine: what systemd says of it, and what stands in the journal of it, waited for.

In the journal are both the unit's own lines and those of PID 1 about it.
"""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from tests.support.booted.machine import Machine

UNIT_FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
UNIT_STARTED = "39f53479d3a045ac8e11786248231fbf"
UNIT_STOPPED = "9d1aaa27d60140bd96365438aad20286"
RESTART_SCHEDULED = "5eb03494b6584870a536b337290809b3"
"""Kinds of PID 1's messages (systemd.journal-fields(7), systemd's catalog)."""

LogLine = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One entry of the journal."""

    fields: Mapping[str, Any]

    @property
    def text(self) -> str:
        return str(self.fields.get("MESSAGE", ""))

    @property
    def priority(self) -> int:
        return int(self.fields["PRIORITY"])

    @property
    def pid(self) -> int:
        return int(self.fields["_PID"])

    @property
    def monotonic_s(self) -> float:
        return int(self.fields["__MONOTONIC_TIMESTAMP"]) / 1e6

    @property
    def line(self) -> LogLine:
        """edged's log line; empty if it is none."""
        try:
            parsed = json.loads(self.text)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def is_kind(self, kind: str) -> bool:
        """Whether it is such a message of PID 1."""
        return self.fields.get("MESSAGE_ID") == kind and self.pid == 1


class Unit:
    """A unit by its name, such as edged@pi-a."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name

    def show(self, *properties: str) -> dict[str, str]:
        """These properties, as `systemctl show` prints them."""
        names = [word for each in properties for word in ("-p", each)]
        lines = self.machine.run("systemctl", "show", self.name, *names).splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def kind_of_readiness(self) -> str:
        """`Type=` as the page has it: from systemd 254 on a reload waits for its answer."""
        return "notify-reload" if self.machine.systemd >= 254 else "notify"

    def has(self, **properties: str) -> bool:
        """Whether these properties have these values now."""
        return self.show(*properties) == properties

    @property
    def pid(self) -> int:
        """The main process, in the machine's numbers; 0 for none."""
        return int(self.show("MainPID")["MainPID"])

    def now(self) -> str:
        """The journal's end, for whoever waits for what comes after it."""
        self.machine.run("journalctl", "--sync")
        shown = self.machine.run("journalctl", "-n", "1", "-o", "cat", "--show-cursor")
        return shown.rpartition("-- cursor: ")[2].strip()

    def entries(self, since: str = "") -> list[Entry]:
        """All entries of the unit so far, behind that place in the journal."""
        self.machine.run("journalctl", "--sync")
        return [Entry(json.loads(each)) for each in self.machine.run(*self._journal(since)).splitlines()]

    def seen(self, event: str, since: str = "", **fields: Any) -> list[LogLine]:
        """The unit's lines of this event and with these fields so far."""
        return [each.line for each in self.entries(since) if _matches(each.line, event, fields)]

    def wait_for(self, event: str, since: str = "", *, may_fail: bool = False, **fields: Any) -> LogLine:
        """The first line of this event and with these fields, from the past or to come."""
        return self.until(lambda entry: _matches(entry.line, event, fields), since, event, may_fail=may_fail).line

    def until(
        self, condition: Callable[[Entry], bool], since: str = "", what: str = "it", *, may_fail: bool = False
    ) -> Entry:
        """The first entry for which this holds, from the past or to come; with `may_fail` also behind a failure."""
        seen: list[str] = []
        with self._following(since) as entries:
            for entry in entries:
                if condition(entry):
                    return entry
                if entry.line.get("event") != "res.sample":
                    seen.append(entry.text)
                if entry.is_kind(UNIT_FAILED) and not may_fail:
                    break
        raise AssertionError(f"{self.name} failed before {what}\n" + "\n".join(seen[-15:]))

    @contextlib.contextmanager
    def _following(self, since: str) -> Iterator[Iterator[Entry]]:
        command = self.machine.command(*self._journal(since), "--follow", "--no-tail")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as journal:
            assert journal.stdout is not None
            try:
                yield (Entry(json.loads(each)) for each in journal.stdout)
            finally:
                # Not nsenter itself: journalctl would become a child of this process's, where that adopts orphans, and
                # the machine's PID 1 could not end before it has been waited for.
                nsenter = psutil.Process(journal.pid)
                for each in nsenter.children() or [nsenter]:
                    each.kill()

    def _journal(self, since: str) -> list[str]:
        behind = [f"--after-cursor={since}"] if since else []
        return ["journalctl", "--quiet", "-o", "json", "--all", "-u", self.name, *behind]


def _matches(line: LogLine, event: str, fields: Mapping[str, Any]) -> bool:
    return line.get("event") == event and all(line.get(key) == value for key, value in fields.items())
