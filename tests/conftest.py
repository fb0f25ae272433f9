"""Marks each test by where it lies and what it uses; fixtures that tests of every layer use."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from edged.log import configure
from tests.support.brokers import Apache, Broker, Embedded, need

os.environ["EDGED_STRICT_LOG"] = "1"  # every logged line is held to the schema
asyncio.set_event_loop(None)  # looptime asks for the thread's loop, and asyncio would make one that nobody closes

Line = dict[str, Any]
TESTS = Path(__file__).parent

_BROKERS_FOLDERS = (TESTS / "integration", TESTS / "faults")
_BROKERS_FIXTURES = {"need_broker", "embedded_broker", "apache_kafka", "process"}
_QUIET_FIXTURE = "quiet_machine"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test as one of `quiet`, `brokers` and `fast`, so that none is forgotten and `-m` has them apart."""
    for item in items:
        item.add_marker(_mark(item))


def _mark(item: pytest.Item) -> str:
    fixtures = set(getattr(item, "fixturenames", ()))
    if _QUIET_FIXTURE in fixtures:
        return "quiet"
    params = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = {value for value in params if isinstance(value, str)}  # `request.getfixturevalue` takes them from there
    lies_with_brokers = any(folder in item.path.parents for folder in _BROKERS_FOLDERS)
    starts_processes = getattr(getattr(item, "module", None), "subprocess", None) is subprocess
    if lies_with_brokers or starts_processes or (fixtures | named) & _BROKERS_FIXTURES:
        return "brokers"
    return "fast"


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
def process() -> None:
    """Asked for by a test that starts a process without importing `subprocess`: it is none of the fast set."""


@pytest.fixture(scope="session")
def quiet_machine() -> None:
    """Asked for by a test that measures what others who compute would falsify: it runs alone."""


@pytest.fixture(scope="session")
def need_broker() -> Callable[[type[Broker]], None]:
    """For who starts a broker: call it with its kind first. It skips the test where there is none."""
    return need


@pytest.fixture(scope="session")
def embedded_broker(need_broker: Callable[[type[Broker]], None]) -> Iterator[Embedded]:
    """The embedded broker that all tests share: leave it running and unpaused, use topics of your own."""
    need_broker(Embedded)
    with Embedded() as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka(need_broker: Callable[[type[Broker]], None]) -> Iterator[Apache]:
    """Apache Kafka that all tests share: leave it running and unpaused, use topics of your own."""
    need_broker(Apache)
    with Apache() as broker:
        yield broker


@pytest.fixture
def down_embedded_broker(need_broker: Callable[[type[Broker]], None]) -> Iterator[Embedded]:
    """An embedded broker of the test's own, not started yet."""
    need_broker(Embedded)
    broker = Embedded()
    yield broker
    broker.__exit__()


@pytest.fixture
def fresh_embedded_broker(down_embedded_broker: Embedded) -> Embedded:
    """An embedded broker of the test's own, running, to do anything to."""
    down_embedded_broker.start()
    return down_embedded_broker


@pytest.fixture
def down_apache_kafka(need_broker: Callable[[type[Broker]], None]) -> Iterator[Apache]:
    """An Apache Kafka of the test's own, not started yet."""
    need_broker(Apache)
    broker = Apache()
    yield broker
    broker.__exit__()


@pytest.fixture
def fresh_apache_kafka(down_apache_kafka: Apache) -> Apache:
    """An Apache Kafka of the test's own, running, to do anything to."""
    down_apache_kafka.start()
    return down_apache_kafka
