"""`edged topics`: commands for Kafka's own tools, and the topics themselves."""

import asyncio
import sys
from types import ModuleType
from typing import ClassVar

from edged.domain.topology import Kafka
from edged.ports import Health, TopicSpec
from tests.cli.conftest import VALID


def test_the_topics_and_rights_are_commands_that_can_be_pasted(edged, topology_file):
    code, out, _ = edged("topics", topology_file())

    assert code == 0
    lines = out.splitlines()
    assert all(line.startswith(("#", "kafka-topics.sh ", "kafka-acls.sh ")) for line in lines if line)
    assert (
        "kafka-topics.sh --bootstrap-server localhost:9092 --create --if-not-exists --topic lab.epochs.pi-a"
        " --partitions 1 --config message.timestamp.type=LogAppendTime --config retention.ms=3600000"
        " --config max.message.bytes=2097152"
    ) in lines
    assert (
        "kafka-acls.sh --bootstrap-server localhost:9092 --add --allow-principal User:cam-01 --operation Write"
        " --operation Read --topic lab.iot.cam-01"
    ) in lines
    assert (
        "kafka-acls.sh --bootstrap-server localhost:9092 --add --allow-principal User:vault --operation Read"
        " --group lab.archiver.vault"
    ) in lines


def test_a_compacted_topic_is_created_so(edged, topology_file):
    _, out, _ = edged("topics", topology_file(VALID + "  exchange: {mode: all_reduce}\n"))

    assert (
        "kafka-topics.sh --bootstrap-server localhost:9092 --create --if-not-exists --topic lab.checkpoints.digits"
        " --partitions 1 --config message.timestamp.type=LogAppendTime --config max.message.bytes=1048576"
        " --config cleanup.policy=compact"
        " --config segment.bytes=16777216"
    ) in out.splitlines()


def test_every_topic_takes_the_brokers_time_and_packs_are_kept(edged, topology_file):
    _, out, _ = edged("topics", topology_file(VALID + "  exchange: {mode: all_reduce}\n"))

    created = [line for line in out.splitlines() if "--create" in line]
    assert all(" --config message.timestamp.type=LogAppendTime" in line for line in created)
    packs = [line for line in created if "--topic lab.archive.digits." in line]
    assert packs
    assert all(" --config retention.ms=-1 --config retention.bytes=-1 " in line for line in packs)


def test_with_mqtt_the_settings_of_its_broker_follow(edged, topology_file):
    text = VALID.replace(
        "streams:", 'mqtt: {broker: broker.lan, username: "${NODE}", password: "${cred:mqtt}"}\nstreams:'
    )
    code, out, err = edged("topics", topology_file(text.replace("edge: pi-a", "edge: pi-a, transport: mqtt")))

    assert code == 0
    lines = out.splitlines()
    assert lines[-1] == "done; systemctl restart mosquitto"
    start = lines.index("install -m 644 /dev/stdin /etc/mosquitto/conf.d/edged.conf <<'END'")
    assert "listener 1883" in lines[start : lines.index("END", start)]
    assert "for user in cam-01 pi-a; do" in lines
    assert "User:cam-01" not in out
    assert "the node will need it" in err


class FakeLog:
    """Takes the place of the Kafka adapter."""

    ensured: ClassVar[tuple[tuple[str, ...], list[TopicSpec]]]
    error: ClassVar[Exception | None] = None
    missing: ClassVar[list[str]] = []

    def __init__(self, kafka: Kafka, _health: Health, *, gives_up: bool) -> None:
        assert gives_up
        self.bootstrap = kafka.bootstrap

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def ensure(self, topics):
        if FakeLog.error:
            raise FakeLog.error
        FakeLog.ensured = (self.bootstrap, list(topics))
        return FakeLog.missing

    async def settings(self, topics, names):
        return {"lab.iot.cam-01": {"cleanup.policy": "compact"}}

    async def partitions(self, topics):
        return dict.fromkeys(topics, 1)


def with_fake_log(monkeypatch, error=None):
    module = ModuleType("edged.adapters.kafka")
    monkeypatch.setattr(module, "KafkaLog", FakeLog, raising=False)
    monkeypatch.setitem(sys.modules, "edged.adapters.kafka", module)
    monkeypatch.setattr(FakeLog, "error", error)
    monkeypatch.setattr("edged.log.output.configure", lambda **_: None)  # it is the whole process's


async def test_apply_creates_what_the_list_names_and_tells_of_what_loses_data(edged, topology_file, monkeypatch):
    with_fake_log(monkeypatch)

    code, out, err = await asyncio.to_thread(edged, "topics", topology_file(), "--apply")

    assert err == (
        "warning: lab.iot.cam-01 has cleanup.policy compact: of records with the same key all but the newest are"
        " deleted\n"
        "  kafka-configs.sh --bootstrap-server localhost:9092 --alter --entity-type topics --entity-name lab.iot.cam-01"
        " --add-config cleanup.policy=delete\n"
    )
    bootstrap, ensured = FakeLog.ensured
    assert (code, out) == (0, "14 topics are there\n")
    assert bootstrap == ("localhost:9092",)
    assert TopicSpec("lab.iot.cam-01", 1) in ensured
    assert TopicSpec("lab.archive.requests", 1, 3_600_000, 4 << 20) in ensured


async def test_apply_without_the_right_to_create_says_what_is_missing_and_exits_with_77(
    edged, topology_file, monkeypatch
):
    with_fake_log(monkeypatch)
    monkeypatch.setattr(FakeLog, "missing", ["lab.iot.cam-01", "lab.iot.cam-02"])

    code, out, err = await asyncio.to_thread(edged, "topics", topology_file(), "--apply")

    assert (code, out) == (77, "")
    assert err == (
        "edged: no right to create lab.iot.cam-01, lab.iot.cam-02, or to see that they are there; who may create topics"
        " can run this command, or those that `edged topics` prints\n"
    )


async def test_apply_without_an_answer_says_so_and_exits_with_69(edged, topology_file, monkeypatch):
    with_fake_log(monkeypatch, TimeoutError())

    code, _, err = await asyncio.to_thread(edged, "topics", topology_file(), "--apply")

    assert code == 69
    assert err == "edged: Kafka at localhost:9092 does not answer\n"
