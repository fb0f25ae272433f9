"""Fixtures that tests of every layer use."""

import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from edged.log import configure
from tests.support.brokers import Apache, Embedded, need_apache, need_embedded

os.environ["EDGED_STRICT_LOG"] = "1"  # every logged line is held to the schema
asyncio.set_event_loop(None)  # looptime asks for the thread's loop, and asyncio would make one that nobody closes

Line = dict[str, Any]


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A test that runs a command in this process sets the log up: not for the tests behind it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


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


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[Embedded]:
    """The embedded broker that all tests share: leave it running and unpaused, use topics of your own."""
    need_embedded()
    with Embedded() as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[Apache]:
    """Apache Kafka that all tests share: leave it running and unpaused, use topics of your own."""
    need_apache()
    with Apache() as broker:
        yield broker


@pytest.fixture
def down_embedded_broker() -> Iterator[Embedded]:
    """An embedded broker of the test's own, not started yet."""
    need_embedded()
    broker = Embedded()
    yield broker
    broker.__exit__()


@pytest.fixture
def fresh_embedded_broker(down_embedded_broker: Embedded) -> Embedded:
    """An embedded broker of the test's own, running, to do anything to."""
    down_embedded_broker.start()
    return down_embedded_broker


@pytest.fixture
def down_apache_kafka() -> Iterator[Apache]:
    """An Apache Kafka of the test's own, not started yet."""
    need_apache()
    broker = Apache()
    yield broker
    broker.__exit__()


@pytest.fixture
def fresh_apache_kafka(down_apache_kafka: Apache) -> Apache:
    """An Apache Kafka of the test's own, running, to do anything to."""
    down_apache_kafka.start()
    return down_apache_kafka
