"""What keeps a node from its MQTT broker: each with its reason, in health and in no line with a secret."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.domain.topology import Mqtt, Tls
from edged.errors import ConfigError
from tests.support.brokers import free_port
from tests.support.mosquitto import Mosquitto, need_mosquitto
from tests.support.secured import Authority

_OWN = "does not accept our certificate|take ours for expired or unknown"
"""Mosquitto 2.0.11 hangs up without TLS's word for it."""

PASSWORD = "hunter2-correct-horse"  # noqa: S105 - of a test


class Brokers(NamedTuple):
    """`plain`: with users. `private`: TLS, and a certificate is wanted of clients. `expired`: TLS, since yesterday."""

    plain: Mosquitto
    private: Mosquitto
    expired: Mosquitto


@pytest.fixture(scope="module")
def brokers() -> Iterator[Brokers]:
    need_mosquitto()
    with ExitStack() as stack:
        made = (
            Mosquitto(users={"pi-a": PASSWORD}),
            Mosquitto(tls=True, wants_certificate=True),
            Mosquitto(tls=True, days=-1),
        )
        yield Brokers(*(stack.enter_context(each) for each in made))


def files_of(broker: Mosquitto) -> Tls:
    assert broker.files is not None
    return broker.files


def at(mqtt: Mqtt, host: str) -> Mqtt:
    return replace(mqtt, broker=f"{host}:{mqtt.port}")


def own_of(brokers: Brokers, signer: Mosquitto, days: int) -> Tls:
    """The files for `private`, but with an edge's certificate by the signer's authority."""
    certificate, key = Authority(signer.folder).issue("edge-2", signer.folder, days=days)
    return replace(files_of(brokers.private), certificate=str(certificate), key=str(key))


def cases(brokers: Brokers) -> dict[str, tuple[Mqtt, str]]:
    """How each would reach it, and a pattern of what it is told."""
    plain, private = brokers.plain.mqtt(), brokers.private.mqtt()
    without_own = replace(private, tls=Tls(ca=files_of(brokers.private).ca))
    return {
        "a host that nobody knows": (at(plain, "broker.invalid"), "no address is known for this host"),
        "a port where nobody is": (replace(plain, broker=f"127.0.0.1:{free_port()}"), "Connection refused"),
        "a wrong password": (replace(plain, password=f"{PASSWORD}!"), "not authorized"),
        "no login": (replace(plain, username=None, password=None), "not authorized"),
        "another authority": (
            replace(private, tls=replace(files_of(brokers.private), ca=files_of(brokers.expired).ca)),
            "the broker's certificate is not accepted: self-signed certificate",
        ),
        "a certificate of another host": (at(private, "localhost"), "certificate is not valid for 'localhost'"),
        "an expired certificate": (brokers.expired.mqtt(), "certificate has expired"),
        "no certificate of its own": (without_own, "wants one|a client's certificate|is this a port for TLS"),
        "an expired certificate of its own": (replace(private, tls=own_of(brokers, brokers.private, -1)), _OWN),
        "its own of another authority": (replace(private, tls=own_of(brokers, brokers.expired, 2)), _OWN),
        "TLS to a port without": (replace(plain, tls=Tls()), "is this a port for TLS"),
        "no TLS to a port with": (replace(private, tls=None), "127.0.0.1"),
    }


NAMES = (
    "a host that nobody knows", "a port where nobody is", "a wrong password", "no login", "another authority",
    "a certificate of another host", "an expired certificate", "no certificate of its own",
    "an expired certificate of its own", "its own of another authority", "TLS to a port without",
    "no TLS to a port with",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_the_reason_is_told_and_no_secret(brokers: Brokers, log_lines, name: str):
    mqtt, reason = cases(brokers)[name]
    health = RecordingHealth()
    mqtt = replace(mqtt, password=mqtt.password or PASSWORD) if mqtt.username else mqtt
    async with PahoBroker(mqtt, health, deadline_s=0.0) as broker, broker.session("edge", part="device/cam"):
        await health.until_degraded()
    assert re.search(reason, health.reasons["mqtt"])
    assert PASSWORD not in json.dumps([health.reasons, log_lines()])
    assert PASSWORD not in repr(mqtt)


async def test_a_renewed_certificate_needs_no_restart(brokers: Brokers, tmp_path: Path):
    """The files are read for each connection."""
    own = files_of(brokers.private)
    copy = tmp_path / "ca.pem"
    shutil.copy(str(files_of(brokers.expired).ca), copy)
    mqtt = replace(brokers.private.mqtt(), tls=replace(own, ca=str(copy)))
    health = RecordingHealth()
    async with PahoBroker(mqtt, health, deadline_s=0.0) as broker, broker.session("edge", part="device/cam") as session:
        await health.until_degraded()
        shutil.copy(str(own.ca), copy)
        await session.connected()
        assert "mqtt" not in health.reasons


@pytest.mark.parametrize("key", ["ca", "certificate", "key"])
async def test_a_file_that_cannot_be_used_ends_the_start_with_its_path(brokers: Brokers, tmp_path: Path, key: str):
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN nothing-----\n")
    mqtt = replace(brokers.private.mqtt(), tls=replace(files_of(brokers.private), **{key: str(broken)}))
    with pytest.raises(ConfigError) as raised:
        PahoBroker(mqtt, RecordingHealth())
    assert [problem.path for problem in raised.value.problems] == [f"mqtt.tls.{key}"]
