"""Fixtures that tests of every layer use."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from edged.log import configure

Line = dict[str, Any]


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Line]]]:
    """The log, set up for the test and held to the schema: call it for the lines so far, or those of one event."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook
    monkeypatch.setenv("EDGED_STRICT_LOG", "1")
    stream = io.StringIO()
    configure(node="pi-a", tier="edge", run_id="r1", level="debug", stream=stream)

    def lines(event: str | None = None) -> list[Line]:
        parsed = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [line for line in parsed if event in {None, line["event"]}]

    yield lines
    root.handlers[:], sys.excepthook = before[0], before[2]
    root.setLevel(before[1])
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
