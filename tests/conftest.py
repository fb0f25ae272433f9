"""Marks each test by where it lies and what it uses, and spreads them over the workers; fixtures of every layer."""

import asyncio
import gc
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy.testing  # noqa: F401 - asks a process for the CPU's kind when it is imported
import pytest
import structlog

from edged.log.output import configure
from tests.support import fake_time, kernels, properties
from tests.support.brokers import Apache, Broker, Embedded, need
from tests.support.hdfs import need_hdfs
from tests.support.kafka_cluster import KafkaCluster
from tests.support.logged import LoggedLines
from tests.support.mosquitto import Mosquitto, need_mosquitto
from tests.support.scheduling import ScopeScheduling
from tests.support.secured import SecuredKafka
from tests.support.shared_brokers import SharedBroker, TestRun, cores, shared_broker, shared_secured_kafka

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of some hundred processes would compile all of edged again
os.environ["EDGED_STRICT_LOG"] = "1"  # every logged line is held to the schema
properties.register_profiles()
asyncio.set_event_loop(None)  # looptime asks for the thread's loop, and asyncio would make one that nobody closes

Line = dict[str, Any]
TESTS = Path(__file__).parent

_SLOW_FOLDER = TESTS / "slow"
_BROKERS_FOLDERS = (TESTS / "integration", TESTS / "faults")
_WITHOUT_BROKERS = TESTS / "faults" / "test_table.py"
_PROCESSES_FOLDER = TESTS / "adapters" / "tflite"  # a foreign file's first use is tried in a process of its own
_BROKERS = (
    "embedded_broker",
    "apache_kafka",
    "secured_kafka",
    "kafka_cluster",
    "mosquitto",
    "hdfs",
    "moto",
    "versitygw",
)
_PROCESS_FIXTURES = {"need_broker", "process", "mosquitto", "hdfs", "moto", "versitygw"}
_QUIET_FIXTURE = "quiet_machine"
_MAY_HAVE = {
    "brokers": re.compile(
        rf'\bsubprocess\b|need_broker|{"|".join(_BROKERS)}|"process"|[(,]\s*process\b|import test_|\.test_\w+ import'
    ),
    "quiet": re.compile(_QUIET_FIXTURE),
    "slow": re.compile(r"mark\.slow"),
}
"""What the text of a module has in which a test is marked so, unless its folder says it: a fixture's name, mostly, or
another module's from which it has fixtures."""
_PROCESS_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
"""Audit events of the interpreter."""

_current: list[pytest.Item] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels", choices=kernels.CHOICES, help="what computes; compiled kernels where they are built")
    parser.addoption("--minutes", type=float, default=0.5, help="how long slow tests of crowds take")


def pytest_configure(config: pytest.Config) -> None:
    kernels.chosen = config.option.kernels
    if not hasattr(config, "workerinput"):
        config.add_cleanup(TestRun().close)


class _BySites(ScopeScheduling):
    """Keeps the tests of a module on one worker, but for sites of real processes that share no fixture.

    Decides by the module's text, for it runs where nothing is collected. pytest-xdist's own way, `--dist loadgroup`,
    writes the group into the node id, which pytest 9.2 does not let it.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = TESTS.parent / nodeid.partition("::")[0]
        return nodeid if _is_site(path) and not _stays_together(path) else str(path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ScopeScheduling:
    return _BySites(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three more than there are cores: tests with processes wait for half of their time. The fast ones do not."""
    cores = os.cpu_count() or 1
    return cores if config.option.markexpr == "fast" else cores + 3


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays to the run's end: the garbage collector need not look at it again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m MARK` modules without such a test are not even imported, unless they are named: it takes seconds."""
    named = {config.invocation_params.dir / each.partition("::")[0] for each in config.args}
    if collection_path.suffix != ".py" or collection_path in named:
        return None
    return None if _may_have(collection_path, config.option.markexpr) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test as one of `slow`, `quiet`, `brokers`, `fast`, so that none is forgotten and `-m` has them apart.

    The sites of real processes are spread evenly among the others: several at a time would only wait for each other's
    cores. Those that stay on one worker begin first, or the others would wait for that one at the end. The quiet tests
    come last.
    """
    for item in items:
        mark = _mark(item)
        if not _may_have(item.path, mark):
            raise pytest.UsageError(f"{item.nodeid} is marked {mark}, and `-m {mark}` leaves it out: see _MAY_HAVE")
        item.add_marker(mark)
    sites = sorted(filter(lambda item: _is_site(item.path), items), key=lambda item: not _stays_together(item.path))
    others = [item for item in items if not _is_site(item.path)]
    place = {item: index / len(kind) for kind in (sites, others) for index, item in enumerate(kind)}
    items.sort(key=lambda item: (item.get_closest_marker("quiet") is not None, place[item]))


@cache
def _is_site(path: Path) -> bool:
    return path != _WITHOUT_BROKERS and any(folder in path.parents for folder in _BROKERS_FOLDERS)


@cache
def _stays_together(path: Path) -> bool:
    """Whether the sites of a module share a fixture."""
    return 'scope="module"' in path.read_text()


@cache
def _folder_mark(path: Path) -> str:
    if _SLOW_FOLDER in path.parents:
        return "slow"
    return "brokers" if _is_site(path) or _PROCESSES_FOLDER in path.parents else "fast"


@cache
def _may_have(path: Path, mark: str) -> bool:
    """Whether the module may have a test with this mark. Of another expression than one mark: yes."""
    if mark not in {"fast", *_MAY_HAVE} or _folder_mark(path) == mark:
        return True
    return mark != "fast" and _folder_mark(path) != "slow" and bool(_MAY_HAVE[mark].search(path.read_text()))


def _mark(item: pytest.Item) -> str:
    folder = _folder_mark(item.path)
    if folder == "slow" or item.get_closest_marker("slow"):  # by hand where the rest of a module is quick
        return "slow"
    fixtures = set(getattr(item, "fixturenames", ()))
    if _QUIET_FIXTURE in fixtures:
        return "quiet"
    params = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = {value for value in params if isinstance(value, str)}  # `request.getfixturevalue` takes them from there
    starts_processes = getattr(getattr(item, "module", None), "subprocess", None) is subprocess
    uses_broker = any(name.endswith(_BROKERS) for name in named)
    if starts_processes or uses_broker or fixtures & _PROCESS_FIXTURES:
        return "brokers"
    return folder


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A quiet test begins when no other runs; the wait is no part of its time."""
    _current.append(item)
    try:
        with cores(alone=item.get_closest_marker("quiet") is not None):
            return (yield)
    finally:
        _current.pop()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    with fake_time.of(pyfuncitem):
        return (yield)


def _fast_tests_start_no_process(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _PROCESS_STARTS and _current and _current[-1].get_closest_marker("fast"):
        raise AssertionError(f"{event} in a test of the fast set: let it ask for the fixture `process`")


sys.addaudithook(_fast_tests_start_no_process)


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """A command or node that a test runs in this process leaves no log and no blocked signals to the tests behind it.

    One fixture, for each costs every test a fifth of a millisecond.
    """
    log, mask = structlog.get_config(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    structlog.configure(**log)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def real_threads() -> None:
    """Asked for by a test in fake time whose worker threads must run beside its event loop."""


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Line]]]:
    """The log, set up for the test and held to the schema: call it for the lines so far, or those of one event."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook
    monkeypatch.setenv("EDGED_STRICT_LOG", "1")
    stream = LoggedLines()
    configure(node="pi-a", tier="edge", run_id="r1", level="debug", stream=stream)
    yield lambda event=None: stream.beginning("") if event is None else stream.of(event)
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
def embedded_broker(need_broker: Callable[[type[Broker]], None]) -> SharedBroker:
    """The embedded broker that all tests of the run share: use topics of your own."""
    need_broker(Embedded)
    return shared_broker("embedded")


@pytest.fixture(scope="session")
def apache_kafka(need_broker: Callable[[type[Broker]], None]) -> SharedBroker:
    """Apache Kafka that all tests of the run share: use topics of your own."""
    need_broker(Apache)
    return shared_broker("apache")


@pytest.fixture(scope="session")
def secured_kafka(need_broker: Callable[[type[Broker]], None]) -> SecuredKafka:
    """Apache Kafka with TLS, logins and an authorizer, which all tests of the run share: use topics of your own."""
    need_broker(Apache)
    return shared_secured_kafka()


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


@pytest.fixture
def fresh_kafka_cluster(need_broker: Callable[[type[Broker]], None]) -> Iterator[KafkaCluster]:
    """Three Apache Kafkas of the test's own that hold each record three times, to do anything to each of them."""
    need_broker(Apache)
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def mosquitto(process: None) -> Iterator[Mosquitto]:
    """A Mosquitto of the test's own, running, to do anything to."""
    need_mosquitto()
    with Mosquitto() as broker:
        yield broker


@pytest.fixture(scope="session")
def hdfs(process: None) -> SharedBroker:
    """HDFS, a NameNode and three DataNodes, that all tests of the run share: use a folder of your own."""
    need_hdfs()
    return shared_broker("hdfs")


@pytest.fixture(scope="session")
def versitygw(process: None) -> SharedBroker:
    """An S3 gateway on a folder that all tests of the run share: use a prefix of your own."""
    from tests.support.s3 import need_versitygw  # noqa: PLC0415 - its client is not everywhere

    need_versitygw()
    return shared_broker("versitygw")


@pytest.fixture(scope="session")
def moto(process: None) -> SharedBroker:
    """An S3 in memory that all tests of the run share: use a prefix of your own."""
    from tests.support.s3 import need_moto  # noqa: PLC0415 - see above

    need_moto()
    return shared_broker("moto")
