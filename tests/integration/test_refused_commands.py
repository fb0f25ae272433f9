"""Commands that Kafka refuses: they end at once, with its sentence and an exit code that tells why."""

import asyncio
import contextlib
import gc
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli import main, prompt_log
from edged.domain.topology import Kafka
from edged.ports import TopicSpec
from tests.support.brokers import free_port
from tests.support.secured import LOST_HOST, MECHANISM, PASSWORD, SecuredKafka
from tests.support.shared_brokers import SharedBroker

Apply = Callable[..., tuple[int, str]]

TOPOLOGY = """\
schema: 1
site: {site}
kafka: {kafka}
streams: {{tiles: {{sample: {{shape: [4], dtype: uint8}}}}}}
iot: [{{name: cam, edge: pi-a, stream: tiles}}]
edges: [{{name: pi-a}}]
archive: [{{name: vault, url: "file:///srv/edged"}}]
"""


@pytest.fixture
def apply(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Apply:
    """`edged topics --apply` with this value of the key `kafka`: its exit code, and what it says."""
    monkeypatch.setattr(prompt_log, "TIMEOUT_S", 5.0)
    monkeypatch.setattr("edged.log.output.configure", lambda **_: None)  # it is the whole process's

    def run(kafka: str, site: str = "refused") -> tuple[int, str]:
        file = tmp_path / "topology.yaml"
        file.write_text(TOPOLOGY.format(kafka=kafka, site=site))
        code = main(["topics", str(file), "--apply"])
        gc.collect()
        return code, capsys.readouterr().err

    return run


def as_user(kafka: SecuredKafka, name: str, password: str = PASSWORD, mechanism: str = MECHANISM) -> str:
    login = f'mechanism: {mechanism}, username: "{name}", password: "{password}"'
    return f'{{bootstrap: ["{kafka.sasl}"], security: {{protocol: SASL_SSL, {login}, ca: "{kafka.authority.file}"}}}}'


def plain(address: str) -> str:
    return f'{{bootstrap: ["{address}"]}}'


async def test_who_is_not_known_is_told_so_and_ends_with_77(secured_kafka: SecuredKafka, apply: Apply):
    name = f"operator-{uuid.uuid4()}"
    secured_kafka.add_users([name])

    code, said = await asyncio.to_thread(apply, as_user(secured_kafka, name, "not-the-password"))
    assert code == os.EX_NOPERM
    assert f"{secured_kafka.sasl}: Authentication failed during authentication due to invalid credentials" in said
    assert "not-the-password" not in said.replace("(see", "")

    code, said = await asyncio.to_thread(apply, as_user(secured_kafka, name, mechanism="SCRAM-SHA-256"))
    assert code == os.EX_NOPERM
    assert f"{secured_kafka.sasl}: the broker does not offer the mechanism SCRAM-SHA-256" in said


async def test_who_lacks_a_right_is_told_which_and_ends_with_77(secured_kafka: SecuredKafka, apply: Apply):
    name = f"operator-{uuid.uuid4()}"
    secured_kafka.add_users([name])

    code, said = await asyncio.to_thread(apply, as_user(secured_kafka, name))

    assert code == os.EX_NOPERM
    assert f"User:{name} has no right to create refused.iot.cam, " in said


async def test_what_the_broker_does_not_make_is_told_in_its_words_with_78(
    secured_kafka: SecuredKafka, apache_kafka: SharedBroker, apply: Apply
):
    code, said = await asyncio.to_thread(apply, plain(secured_kafka.admin_kafka.bootstrap[0]))
    assert code == os.EX_CONFIG
    assert "topic refused." in said
    assert "is not created: Unable to replicate the partition 3 time(s)" in said

    site = f"a_b-{uuid.uuid4()}"
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log:
        await log.ensure([TopicSpec(f"{site}.iot.cam".replace("_", "."))])
    code, said = await asyncio.to_thread(apply, plain(apache_kafka.bootstrap), site)
    assert code == os.EX_CONFIG
    assert "collides with existing topic" in said


async def test_who_does_not_answer_is_named_with_the_reason_and_69(secured_kafka: SecuredKafka, apply: Apply):
    nobody = f"127.0.0.1:{free_port()}"
    cases = {
        plain(nobody): (nobody, "Connect call failed"),
        plain(secured_kafka.lost): (f"{LOST_HOST}:9092", "no address is known for this host"),
    }
    with swallowing() as silent:
        cases[plain(silent)] = (silent, "no answer")
        for kafka, (address, reason) in cases.items():
            code, said = await asyncio.to_thread(apply, kafka)
            assert (code, address in said, reason in said) == (os.EX_UNAVAILABLE, True, True), said


@contextlib.contextmanager
def swallowing() -> Iterator[str]:
    """An address that answers no packet: its queue of connections is full, and nobody takes any."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def test_tls_on_one_side_alone_ends_at_once_with_78(
    secured_kafka: SecuredKafka, apply: Apply, monkeypatch: pytest.MonkeyPatch
):
    admin = secured_kafka.admin_kafka.bootstrap[0]
    tls = f'{{bootstrap: ["{admin}"], security: {{protocol: SSL, ca: "{secured_kafka.authority.file}"}}}}'
    cases = {
        plain(secured_kafka.tls): (secured_kafka.tls, "does this port expect TLS?"),
        tls: (admin, "is this a port for TLS?"),
    }
    for kafka, (address, reason) in cases.items():
        monkeypatch.setattr(prompt_log, "TIMEOUT_S", 600.0)  # it does not wait for that
        code, said = await asyncio.to_thread(apply, kafka)
        assert (code, address in said, reason in said) == (os.EX_CONFIG, True, True), said
