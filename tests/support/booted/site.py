"""A whole site on one machine: Apache Kafka with logins, the archive node, an edge and its companion, all as units.

It is made as systemd/README.md says: by the packages, and `edged node enable`.
"""

import json
import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.support.booted.machine import Machine
from tests.support.booted.packages import build_packages
from tests.support.booted.units import RESTART_SCHEDULED, UNIT_FAILED, UNIT_STARTED, UNIT_STOPPED, Unit
from tests.support.brokers import Apache, kafka_jars
from tests.support.site import FASHION, SMALL_MODEL

NODES = ("vault", "pi-a")
PASSWORD = "a-secret-of-the-greenhouse"  # noqa: S105 - guards nothing
KAFKA_PORT, LOGIN_PORT = 9092, 9093

PACKAGES = "/var/packages"

TOPOLOGY_FILE = "/etc/edged/topology.yaml"
TOPOLOGY = """\
schema: 1
site: greenhouse
kafka:
  bootstrap: ["127.0.0.1:{port}"]
  security:
    protocol: SASL_PLAINTEXT
    mechanism: PLAIN
    username: "${{NODE}}"
    password: "${{cred:kafka-password}}"
streams:
  fashion:
    sample: {{shape: [28, 28, 1], dtype: uint8}}
    labels: {labels}
iot:
  - {{name: cam-01, edge: pi-a, stream: fashion, codec: raw}}
edges: [{{name: pi-a, cache: {{memory: 8MiB, disk: 64MiB}}, prefetch: 4MiB, memory_limit: 400MiB}}]
archive:
  - {{name: vault, url: "file:///srv/edged", flush: 1s}}
training:
  stream: fashion
  model: {model}
  source: archive
  epochs: {epochs}
  global_batch: 64
  micro_batch: 8
  checkpoint: {checkpoint}
  optimizer: {{sgd: {{learning_rate: 0.05, momentum: 0.9}}}}
"""

_KAFKA_UNIT = """\
[Unit]
After=network.target
[Service]
ExecStart={command}
SuccessExitStatus=143
[Install]
WantedBy=multi-user.target
"""

_PROBE = Path(__file__).with_name("sandbox_probe.py")
_PROBE_COMMAND = ("/usr/lib/edged/bin/python3", "/opt/probe.py")
_PROBE_UNIT = f"""\
[Service]
Type=oneshot
WatchdogSec=0
Restart=no
ExecStart=
ExecStart={" ".join(_PROBE_COMMAND)}
"""


def topology(**settings: object) -> str:
    """The site's file. Training goes on to no end, with a checkpoint every second, unless told otherwise."""
    chosen = {"epochs": 1_000_000, "checkpoint": "1s", "model": SMALL_MODEL, **settings}
    return TOPOLOGY.format(port=LOGIN_PORT, labels=FASHION, **chosen)


class BootedSite:
    """The site on its booted machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.vault = Unit(machine, "edged@vault")
        self.edge = Unit(machine, "edged@pi-a")
        self.companion = Unit(machine, "edged-infer@pi-a")
        self.units = (self.vault, self.edge, self.companion)

    def unit(self, name: str) -> Unit:
        """Another unit of the machine."""
        return Unit(self.machine, name)

    def configure(self, text: str) -> None:
        """Replace the topology."""
        self.machine.file(TOPOLOGY_FILE).write_text(text)

    def restore(self) -> None:
        """The topology as it was, and all units running by it, whatever a test has done to them."""
        names = [unit.name for unit in self.units]
        self.machine.run("systemctl", "reset-failed", *names)
        is_changed = self.machine.file(TOPOLOGY_FILE).read_text() != topology()
        self.configure(topology())
        self.machine.run("systemctl", "restart" if is_changed else "start", *names)

    def reload(self) -> None:
        """Have all nodes read the topology again."""
        self.machine.run("systemctl", "reload", *(unit.name for unit in self.units))

    def drop_in(self, name: str, text: str) -> None:
        """Give a unit a drop-in of the test's own, which stays."""
        put(self.machine, f"/etc/systemd/system/{name}.service.d/zz-test.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def pause_after_a_kill(self) -> float:
        """Kill the edge; the seconds until systemd starts it again. Returns when it runs."""
        since = self.edge.now()
        self.machine.run("kill", "-KILL", str(self.edge.pid))
        end = self.edge.until(lambda each: each.is_kind(UNIT_FAILED), since, may_fail=True)
        begin = self.edge.until(lambda each: each.is_kind(RESTART_SCHEDULED), since, may_fail=True)
        self.edge.wait_for("life.ready", since, may_fail=True)
        return begin.monotonic_s - end.monotonic_s

    def niceness(self, unit: Unit) -> list[int]:
        """Of the main process's threads, the main one first."""
        shown = self.machine.run("ps", "-L", "-o", "lwp=,ni=", "-p", str(unit.pid)).split()
        of = dict(zip(map(int, shown[::2]), map(int, shown[1::2]), strict=True))
        return [of.pop(unit.pid), *of.values()]

    def probe(self, name: str = "") -> dict[str, Any]:
        """What becomes of each attempt of `sandbox_probe`: as this unit's program, or as the node's user alone."""
        self.machine.file("/opt/probe.py").write_bytes(_PROBE.read_bytes())
        if name:
            self.drop_in(name, _PROBE_UNIT)
            self.machine.run("systemctl", "start", name)
            self.unit(name).until(lambda each: each.is_kind(UNIT_STARTED))
            told = [each.text for each in self.unit(name).entries()]
        else:
            told = self.machine.run("runuser", "-u", "edged", "--", *_PROBE_COMMAND).splitlines()
        found: dict[str, Any] = {}
        for each in told:
            if each.startswith("{"):
                found |= json.loads(each)
        return found

    def ended_in_order(self, since: str) -> list[str]:
        """The names of the site's units in the order in which they were stopped, whichever boot that was in."""
        ends = {
            unit.name: entry.monotonic_s
            for unit in self.units
            for entry in unit.entries(since)
            if entry.is_kind(UNIT_STOPPED)
        }
        return sorted(ends, key=lambda name: ends[name])

    def saved_at_its_stop(self, since: str) -> int:
        """The step of the last checkpoint that the edge saved before it stopped."""
        lines = [each.line for each in self.edge.entries(since) if each.line]
        stop = next(n for n, line in enumerate(lines) if line["event"] == "life.stopped")
        return int([line["generation"] for line in lines[:stop] if line["event"] == "checkpoint.saved"][-1])

    def checkpoints(self) -> list[int]:
        """The steps of the edge's checkpoints that are on its disk, oldest first."""
        folder = self.machine.file("/var/lib/edged/pi-a")
        return sorted(int(each.stem.partition("-")[2]) for each in folder.glob("checkpoint-*.safetensors"))


def installed(suite: str, folder: Path, seen: Sequence[Path]) -> Path:
    """The layer of a machine that has the whole site, enabled, and is off. `seen`: as for Machine."""
    packages = build_packages(suite, folder / "packages")
    with Machine(suite, folder / suite, seen=seen) as machine:
        machine.boot()
        install(machine, packages)
        install_kafka(machine)
        put(machine, TOPOLOGY_FILE, topology())
        for node in NODES:
            put(machine, f"/etc/edged/credentials/{node}/kafka-password", PASSWORD, mode="600")
            machine.run("edged", "node", "enable", node)
        archive = "runuser -u edged -- edged archive"
        machine.shell(f"{archive} init {TOPOLOGY_FILE}")
        machine.shell(f"{archive} import {TOPOLOGY_FILE} --from fashion-mnist-small --limit 1000")
        machine.power_off()
        return machine.layer


def install(machine: Machine, packages: Iterable[Path]) -> None:
    """Install the packages, and leave them in `PACKAGES`. All that they need is there: the network is not."""
    machine.file(PACKAGES).mkdir()
    for each in packages:
        shutil.copy(each, machine.file(PACKAGES))
    machine.shell(f"apt-get install --yes {PACKAGES}/*.deb")


def install_kafka(machine: Machine) -> None:
    """Make Apache Kafka a unit of the machine's, which has to see `apache_files`, and start it."""
    users = " ".join(f'user_{name}="{PASSWORD}"' for name in NODES)
    settings = {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
            f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        ),
    }
    with Apache(settings, port=KAFKA_PORT, listeners={"SASL_PLAINTEXT": LOGIN_PORT}).prepared() as broker:
        there, here = str(broker.folder), "/var/lib/kafka"
        shutil.copytree(there, machine.file(here))
        properties = machine.file(f"{here}/server.properties")
        properties.write_text(properties.read_text().replace(there, here))
        unit = _KAFKA_UNIT.format(command=shlex.join(broker.command).replace(there, here))
    put(machine, "/etc/systemd/system/kafka.service", unit)
    machine.run("systemctl", "enable", "--now", "kafka")


def unpack_kafka(machine: Machine) -> None:
    """Put what the example of a broker on a Pi uses of a release into /opt/kafka; its Java is the host's.

    Copied, as a unit's user does not see the host's /root.
    """
    shutil.copytree(kafka_jars(), machine.file("/opt/kafka/libs"))
    script = '#!/bin/sh\nexec java -cp "/opt/kafka/libs/*" kafka.tools.StorageTool "$@"\n'
    put(machine, "/opt/kafka/bin/kafka-storage.sh", script, mode="755")
    java = os.path.realpath(shutil.which("java") or "java")
    machine.shell(f"ln -sf {java} /usr/bin/java && java -version")


def put(machine: Machine, path: str, text: str, *, mode: str = "644") -> None:
    """Write a file on the booted machine, and make its folders."""
    machine.shell(f"install -D -m {mode} /dev/stdin {path}", input=text)
