"""What a test's process has logged, as values."""

import io
import json
from collections import Counter
from typing import Any


class LoggedLines(io.StringIO):
    """A stream for the log. A line is parsed when it is written, for tests ask for all of them again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._parsed: list[dict[str, Any]] = []
        self._counts = Counter[str]()

    def write(self, text: str) -> int:
        lines = [json.loads(line) for line in text.splitlines()]
        self._parsed += lines
        self._counts.update(line["event"] for line in lines)
        return super().write(text)

    def count(self, event: str) -> int:
        """How many lines of this event there are. Cheap to poll."""
        return self._counts[event]

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of this event."""
        return [line for line in self._parsed if line["event"] == event]

    def beginning(self, name: str) -> list[dict[str, Any]]:
        """The lines of all events whose names begin so."""
        return [line for line in self._parsed if line["event"].startswith(name)]
