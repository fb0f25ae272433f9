"""Real brokers for tests, as child processes that can be stopped, started again, paused and resumed.

`Embedded` is the demo's broker (Tansu: keeps nothing over a restart), `Apache` is Apache Kafka in KRaft mode, one
process being broker and controller (keeps its data). Both die with the process that started them.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from confluent_kafka.admin import AdminClient

from edged.adapters.embedded.brokers import binary
from edged.adapters.embedded.server import ServerUnavailable, killed_with_parent
from tests.support.requirements import require

_START_S = 180.0
_STOP_S = 20.0
_POM = Path(__file__).parent / "kafka" / "pom.xml"


class Broker:
    """A broker on a loopback port. `advertised`: the port that clients are sent to, when a proxy stands in front.

    A context manager that starts and stops it. The methods block: in a running event loop, call them through
    `asyncio.to_thread`.
    """

    def __init__(self, *, port: int | None = None, advertised: int | None = None) -> None:
        self.port = port or free_port()
        self.advertised = advertised or self.port
        self.bootstrap = f"127.0.0.1:{self.advertised}"
        self._folder = tempfile.TemporaryDirectory(prefix="edged-broker-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    def about(self) -> Mapping[str, str]:
        """How to reach it."""
        return {"port": str(self.port)}

    def start(self) -> None:
        """Start it, on the same port and data as before; returns when it answers."""
        self.launch()
        self.wait_until_up()

    def launch(self) -> None:
        """Start it, and do not wait for it."""
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                killed_with_parent(self._command()), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait_until_up(self) -> None:
        """Return when it answers."""
        try:
            AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0}).list_topics(timeout=_START_S)
        except Exception as error:
            self.stop()
            raise RuntimeError(f"no answer; {(self.folder / 'output.log').read_text()[-2000:]}") from error

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it; SIGKILL for the way a power cut would."""
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def pid(self) -> int:
        """Of its process, while it runs."""
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """It accepts connections and answers nothing any more, from the moment on that this returns."""
        self._signal(signal.SIGSTOP)
        # The signal may still be on its way; this returns when the last thread has stopped.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        self._folder.cleanup()

    def _signal(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    def _command(self) -> list[str]:
        raise NotImplementedError


class Embedded(Broker):
    """The embedded broker. A restart empties it."""

    def _command(self) -> list[str]:
        return [
            *(binary(), "broker", "--storage-engine", "memory://tansu/"),
            *("--listener-url", f"tcp://127.0.0.1:{self.port}"),
            *("--advertised-listener-url", f"tcp://{self.bootstrap}"),
        ]


class Apache(Broker):
    """Apache Kafka. `settings` are added to its server.properties, `listeners` (protocol: port) to PLAINTEXT.

    A setting without a value is left out. `host`: where those listeners are, when other machines or network namespaces
    come to them.
    """

    def __init__(
        self,
        settings: dict[str, str] | None = None,
        *,
        port: int | None = None,
        advertised: int | None = None,
        listeners: Mapping[str, int] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(port=port, advertised=advertised)
        self.controller_port = free_port()
        self.heap = "512m"
        self.settings = settings or {}
        self._more = "".join(f",{name}://{host}:{more}" for name, more in (listeners or {}).items())
        self._formatted = False
        self._archive_option = ""

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def launch(self) -> None:
        self.prepare()
        super().launch()

    def prepare(self) -> None:
        """Write its configuration, and its data folder as before the first start."""
        if not self._formatted:
            self._configure()
            if "node.id" in self.settings or self._archive_option:  # no node 1, or the one that makes the archive
                self._format()
            else:
                self._copy_formatted()
            self._formatted = True

    @contextlib.contextmanager
    def prepared(self) -> Iterator[Self]:
        """For who starts it elsewhere, by `command`: its folder, which is gone behind this."""
        with self._folder:
            self.prepare()
            yield self

    @property
    def command(self) -> list[str]:
        """What starts it, once it is prepared; reads `apache_files`."""
        return self._command()

    def forget(self) -> None:
        """The data folder is gone: the next start begins with an empty one."""
        self._formatted = False

    def _configure(self) -> None:
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}{self._more}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}{self._more}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL",
            "log.dirs": str(self._data),
            "log.cleaner.dedupe.buffer.size": str(4 << 20),  # of 128 MiB otherwise, all of them touched at the start
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "true",
            **self.settings,
        }
        text = "".join(f"{key}={value}\n" for key, value in properties.items() if value)
        (self.folder / "server.properties").write_text(text)

    def _format(self) -> None:
        command = self._java("kafka.tools.StorageTool", "format", "-t", "ZWRnZWQtdGVzdHMta2Fma2E", "-c")
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"storage not formatted: {done.stdout}{done.stderr}")

    def _copy_formatted(self) -> None:
        try:
            shutil.copytree(_formatted_data(), self._data)
        except OSError:  # a HOME that cannot be written only costs a Java
            shutil.rmtree(self._data, ignore_errors=True)
            self._format()

    def _command(self) -> list[str]:
        return self._java("kafka.Kafka")

    def _java(self, *main: str) -> list[str]:
        # Of half the heap from the start on, a start takes a seventh less of CPU than of a heap that grows.
        heap = [f"-Xmx{self.heap}", "-Xms256m"]
        return kafka_java(*main, str(self.folder / "server.properties"), options=heap, archive=self._archive_option)


def kafka_java(*main: str, options: Sequence[str] = (), archive: str = "") -> list[str]:
    """What starts a class of Kafka's: Serial GC and C1 alone take less memory, and are up sooner, than a server's."""
    words = [*options, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    with contextlib.suppress(OSError):  # a HOME that cannot be written only costs the start-up time
        words.append(archive or f"-XX:SharedArchiveFile={_class_archive()}")
    java = os.path.realpath(shutil.which("java") or "java")
    return [java, *words, "-cp", f"{kafka_jars()}/*", *main]


def apache_files() -> tuple[Path, ...]:
    """What Apache Kafka reads beside Java and its own folder."""
    return kafka_jars(), _class_archive()


@functools.cache
def _class_archive() -> Path:
    """Kafka's classes as this Java has them in memory, made once: a broker that has them starts with half the CPU.

    Java does without it, and says so in the broker's output, where it does not fit the jars.
    """
    archive = _kept("jsa")
    with one_at_a_time(archive.with_suffix(".lock")):
        if not archive.exists():
            with tempfile.TemporaryDirectory(dir=archive.parent) as fresh:
                broker, dump = Apache(), Path(fresh) / "kafka.jsa"
                broker._archive_option = f"-XX:ArchiveClassesAtExit={dump}"
                with broker:
                    pass
                if dump.exists():
                    dump.rename(archive)
    return archive


@functools.cache
def _formatted_data() -> Path:
    """The data folder of a node 1 before its first start, made once: a Java makes it, and it holds no address."""
    data = _kept("data")
    with one_at_a_time(data.with_suffix(".data-lock")):
        if not data.exists():
            broker = Apache()
            with broker._folder:
                broker._configure()
                broker._format()
                fresh = shutil.copytree(broker._data, data.with_suffix(".new"), dirs_exist_ok=True)
                fresh.rename(data)
    return data


def _kept(what: str) -> Path:
    """Where something that this Java makes of these jars is kept for later runs."""
    java = hashlib.sha256(os.path.realpath(shutil.which("java") or "java").encode() + str(kafka_jars()).encode())
    kept = Path.home() / ".cache" / "edged-tests" / f"kafka-{_version(_POM)}-{java.hexdigest()[:8]}.{what}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    return kept


@functools.cache
def kafka_jars() -> Path:
    """The folder of Kafka's jars: $EDGED_KAFKA_JARS, or copied by Maven (once) to ~/.cache/edged-tests."""
    return maven_jars("kafka", _POM, "EDGED_KAFKA_JARS")


def maven_jars(name: str, pom: Path, variable: str) -> Path:
    """The folder that the environment's `variable` names, or of a POM's jars, copied by Maven once for all runs."""
    given = os.environ.get(variable)
    if given:
        return Path(given)
    folder = Path.home() / ".cache" / "edged-tests" / f"{name}-{_version(pom)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.with_suffix(".lock")):
        if folder.exists():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
            subprocess.run([*command, f"-DoutputDirectory={fresh}/jars"], check=True, capture_output=True)
            (Path(fresh) / "jars").rename(folder)
    return folder


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Of all test processes on this machine, one is inside; `lock`: the file that they have in common."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def need(kind: type[Broker]) -> None:
    """Skip the test, with the reason, where a broker of this kind cannot be started."""
    {Embedded: need_embedded, Apache: need_apache}[kind]()


def need_apache() -> None:
    """Skip the test, with the reason, where Apache Kafka cannot be started."""
    if shutil.which("java") is None:
        require("no java on the PATH, for Apache Kafka")
    if "EDGED_KAFKA_JARS" not in os.environ and shutil.which("mvn") is None:
        require("neither EDGED_KAFKA_JARS nor mvn, for Apache Kafka's jars")
    try:
        kafka_jars()
    except (OSError, subprocess.CalledProcessError) as error:
        require(f"Maven could not fetch Apache Kafka's jars: {error}")


def need_embedded() -> None:
    """Skip the test, with the reason, where the embedded broker is not installed."""
    try:
        binary()
    except ServerUnavailable as error:
        require(str(error))


def free_port() -> int:
    """A loopback port that nobody listens on.

    It is below those that the kernel gives to clients, so that nobody has it while its broker is away.
    """
    while True:
        port = random.randrange(10_000, 32_000)  # noqa: S311 - guards nothing
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _version(pom: Path) -> str:
    version = ET.parse(pom).find(".//{*}dependency/{*}version")  # noqa: S314 - our own file
    assert version is not None
    return str(version.text)
