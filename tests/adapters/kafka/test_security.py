"""TLS and SCRAM, against Apache Kafka: hosts are verified, clients authenticated, secrets never shown."""

import asyncio
import ssl
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.kafka.security import client_options
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka, Security, kafka_commands
from edged.ports import Message, Record, TopicPartition
from tests.support.secured import PASSWORD, SecuredKafka


@pytest.fixture
def user(secured_kafka: SecuredKafka) -> str:
    """One whom the broker knows."""
    name = f"user-{uuid.uuid4()}"
    secured_kafka.add_users([name])
    return name


async def made(secured_kafka: SecuredKafka, user: str, *operations: str) -> str:
    """A topic to which the user has these rights."""
    name = f"garden.{uuid.uuid4()}"
    commands = [kafka_commands.create(["b"], name, 1, {})]
    commands += [kafka_commands.allow(["b"], user, operations, "topic", name)] if operations else []
    await asyncio.to_thread(secured_kafka.run, "\n".join(commands))
    return name


@pytest.fixture
def health() -> RecordingHealth:
    return RecordingHealth()


async def reason_for(kafka: Kafka, health: RecordingHealth, topic: str = "garden") -> str:
    """The reason reported to health, at once, when an append over `kafka` is refused."""
    async with KafkaLog(kafka, health, deadline_s=100.0) as log, asyncio.timeout(120):
        append = asyncio.create_task(log.append([Message(topic, b"1")]))
        await health.until_degraded()
        append.cancel()
    return health.reasons["kafka"]


async def written_and_read(kafka: Kafka, health: RecordingHealth, topic: str) -> bytes:
    """What comes back of a record."""
    async with KafkaLog(kafka, health) as log:
        await log.append([Message(topic, b"tomato")])
        async with log.reader({TopicPartition(topic): 0}) as reader, asyncio.timeout(120):
            records: list[Record] = []
            while not records:
                records = await reader.poll(max_records=1, timeout_s=1.0)
    return records[0].value


async def test_records_are_written_and_read_over_tls_with_scram(
    secured_kafka: SecuredKafka, user: str, health: RecordingHealth
):
    topic = await made(secured_kafka, user, "Read", "Write")

    assert await written_and_read(secured_kafka.kafka(user), health, topic) == b"tomato"
    assert health.history == []


async def test_records_are_written_and_read_with_a_certificate(
    secured_kafka: SecuredKafka, user: str, health: RecordingHealth, tmp_path: Path
):
    topic = await made(secured_kafka, user, "Read", "Write")
    certificate, key = secured_kafka.authority.issue(user, tmp_path)

    assert await written_and_read(secured_kafka.with_certificate(certificate, key), health, topic) == b"tomato"
    assert health.history == []


async def test_a_renewed_certificate_serves_the_next_connection(
    secured_kafka: SecuredKafka, user: str, health: RecordingHealth, tmp_path: Path
):
    """The files are those of a user without rights first: no restart of the log is needed for the others."""
    topic = await made(secured_kafka, user, "Read", "Write")
    certificate, key = secured_kafka.authority.issue("nobody", tmp_path)
    async with KafkaLog(secured_kafka.with_certificate(certificate, key), health) as log, asyncio.timeout(120):
        append = asyncio.create_task(log.append([Message(topic, b"1")]))
        await health.until_degraded()
        assert topic in health.reasons["kafka"]

        for new, old in zip(secured_kafka.authority.issue(user, tmp_path), (certificate, key), strict=True):
            new.replace(old)
        await log._admin.close()  # as when the broker restarts
        await log._producer.close()
        assert await append == [0]


async def test_a_rotated_password_is_for_the_next_start_and_open_connections_go_on(
    secured_kafka: SecuredKafka, user: str, health: RecordingHealth
):
    topic = await made(secured_kafka, user, "Read", "Write")
    async with KafkaLog(secured_kafka.kafka(user), health) as before, asyncio.timeout(120):
        assert await before.append([Message(topic, b"1")]) == [0]
        await asyncio.to_thread(secured_kafka.add_users, [user], "another-secret")

        assert await before.append([Message(topic, b"2")]) == [1]
        async with KafkaLog(secured_kafka.kafka(user, "another-secret"), health) as after:
            assert await after.append([Message(topic, b"3")]) == [2]


async def test_without_a_certificate_a_broker_that_wants_one_says_so(
    secured_kafka: SecuredKafka, health: RecordingHealth
):
    kafka = Kafka((secured_kafka.tls,), Security("SSL", ca=str(secured_kafka.authority.file)))

    reason = await reason_for(kafka, health)

    assert secured_kafka.tls in reason
    assert "ertificate" in reason


async def test_a_wrong_password_is_reported_in_the_brokers_words_and_not_shown(
    secured_kafka: SecuredKafka, user: str, health: RecordingHealth, log_lines: Callable[..., list[dict[str, Any]]]
):
    reason = await reason_for(secured_kafka.kafka(user, "not-" + PASSWORD), health)

    assert reason == (
        f"{secured_kafka.sasl}: Authentication failed during authentication due to invalid credentials"
        f" with SASL mechanism SCRAM-SHA-512 (as User:{user})"
    )
    assert PASSWORD not in reason + str(log_lines())


async def test_a_certificate_for_another_name_is_refused(
    secured_kafka: SecuredKafka, user: str, health: RecordingHealth
):
    kafka = secured_kafka.kafka(user)
    other = replace(kafka, bootstrap=(secured_kafka.sasl.replace("127.0.0.1", "localhost"),))

    assert "CERTIFICATE_VERIFY_FAILED" in await reason_for(other, health)


def test_host_names_are_checked_and_secrets_are_passed_but_never_shown():
    security = Security("SASL_SSL", "SCRAM-SHA-512", "pi-a", "geheim")

    options = client_options(Kafka(("broker.lan:9093",), security), "edged")

    assert options["ssl_context"].check_hostname
    assert options["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("SCRAM-SHA-512", "pi-a")
    assert options["sasl_plain_password"] == security.password
    assert "geheim" not in repr(security)
