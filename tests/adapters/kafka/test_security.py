"""TLS and SCRAM, against Apache Kafka: hosts are verified, clients authenticated, secrets never shown."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from edged.adapters.kafka import KafkaLog
from edged.adapters.kafka.security import client_options
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka, Security
from edged.ports import Message, Record, TopicPartition
from tests.support.brokers import Apache, Broker, free_port
from tests.support.requirements import require

PASSWORD = "a-secret-of-the-greenhouse"  # noqa: S105 - guards nothing


@dataclass(frozen=True)
class Secured:
    port: int
    security: Security

    def kafka(self, host: str = "127.0.0.1") -> Kafka:
        return Kafka((f"{host}:{self.port}",), self.security)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, need_broker: Callable[[type[Broker]], None]) -> Iterator[Secured]:
    """A broker with a certificate for 127.0.0.1 only, and the user pi-a."""
    need_broker(Apache)
    if shutil.which("openssl") is None:
        require("no openssl on the PATH, for a certificate")
    folder = tmp_path_factory.mktemp("tls")
    port = free_port()
    settings = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(_certificate(folder)),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    with Apache(settings, listeners={"SASL_SSL": port}) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        user = UserScramCredentialUpsertion("pi-a", info, PASSWORD.encode())
        for done in admin.alter_user_scram_credentials([user]).values():
            done.result()
        yield Secured(port, Security("SASL_SSL", "SCRAM-SHA-512", "pi-a", PASSWORD, ca=str(folder / "cert.pem")))


def _certificate(folder: Path) -> Path:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=broker"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    both = folder / "server.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


@pytest.fixture
def health() -> RecordingHealth:
    return RecordingHealth()


async def reason_for(kafka: Kafka, health: RecordingHealth) -> str:
    """The reason reported to health when an append over `kafka` fails."""
    async with KafkaLog(kafka, health, deadline_s=2.0) as log, asyncio.timeout(120):
        append = asyncio.create_task(log.append([Message("garden", b"1")]))
        await health.until_degraded()
        append.cancel()
    return health.reasons["kafka"]


async def test_records_are_written_and_read_over_tls_with_scram(secured: Secured, health: RecordingHealth):
    async with KafkaLog(secured.kafka(), health) as log:
        await log.append([Message("garden", b"tomato")])
        async with log.reader({TopicPartition("garden"): 0}) as reader, asyncio.timeout(120):
            records: list[Record] = []
            while not records:
                records = await reader.poll(max_records=1, timeout_s=1.0)

    assert records[0].value == b"tomato"
    assert health.history == []


async def test_a_wrong_password_is_reported_and_not_shown(
    secured: Secured, health: RecordingHealth, log_lines: Callable[..., list[dict[str, Any]]]
):
    wrong = "not-" + PASSWORD
    kafka = replace(secured.kafka(), security=replace(secured.security, password=wrong))

    reason = await reason_for(kafka, health)

    assert "uthentication" in reason
    assert PASSWORD not in reason + str(log_lines())


async def test_a_certificate_for_another_name_is_refused(secured: Secured, health: RecordingHealth):
    assert "CERTIFICATE_VERIFY_FAILED" in await reason_for(secured.kafka("localhost"), health)


def test_host_names_are_checked_and_secrets_are_passed_but_never_shown():
    security = Security("SASL_SSL", "SCRAM-SHA-512", "pi-a", "geheim")

    options = client_options(Kafka(("broker.lan:9093",), security), "edged")

    assert options["ssl_context"].check_hostname
    assert options["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("SCRAM-SHA-512", "pi-a")
    assert options["sasl_plain_password"] == security.password
    assert "geheim" not in repr(security)


def test_a_missing_certificate_is_an_error_at_once():
    with pytest.raises(OSError):
        client_options(Kafka(("broker.lan:9093",), Security("SSL", ca="/nowhere/ca.pem")), "edged")
