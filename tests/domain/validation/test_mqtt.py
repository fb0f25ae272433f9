"""Devices that speak MQTT, and their broker."""

from dataclasses import replace

import pytest

from edged.domain.topology import Device, Mqtt, Tls
from edged.domain.validation import mqtt
from tests.support.valid_topology import VALID

BROKER = Mqtt("broker.lan", Tls())
LARGEST_RAW = replace(VALID.streams[0], shape=(1024, 767, 1))
NAMES = Device("cam", "pi-a", "tiles")


def site(broker: Mqtt | None = BROKER, **device):
    return replace(VALID, mqtt=broker, iot=(replace(NAMES, **{"transport": "mqtt", **device}),))


def told(findings):
    return [(each.path, each.message) for each in findings]


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (site(None), "iot[0].transport", "the file does not say where the MQTT broker is"),
        (site(receipts=True), "iot[0].receipts", "a receipt names a sample by its id"),
        (site(transport="kafka", id="counter"), "iot[0].id", "transport: kafka does not use it"),
        (site(transport="kafka", receipts=True), "iot[0].receipts", "transport: kafka does not use it"),
        (site(Mqtt("broker.lan:0")), "mqtt.broker", "a port is a number from 1 to 65535"),
        (site(Mqtt("broker.lan:65536")), "mqtt.broker", "a port is a number from 1 to 65535"),
        (site(Mqtt("b", None, None, "p")), "mqtt.password", "it is used only with its username"),
        (site(Mqtt("b", Tls(certificate="/c"))), "mqtt.tls.certificate", "it is used only with its key"),
        (site(Mqtt("b", Tls(key="/k"))), "mqtt.tls.key", "it is used only with its certificate"),
        (site(Mqtt("b", Tls(None, None, None, "p"))), "mqtt.tls.key_password", "it is used only with its key"),
        (replace(site(replace(BROKER, packet_bytes=768 * 1024)), streams=(LARGEST_RAW,)), "mqtt.packet_bytes",
         'a raw sample of stream "tiles" takes a packet of up to 787456 bytes, the limit is 786432'),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_once_at_its_place(topology, path, message):
    assert told(mqtt.problems(topology)) == [(path, message)]


@pytest.mark.parametrize(
    "topology",
    [
        VALID,
        site(),
        site(id="counter", receipts=True),
        site(id="text"),
        site(Mqtt("b", username="u")),  # a client certificate may stand for the password
        site(Mqtt("b", Tls("/ca", "/c", "/k", "p"), "u", "p")),
        site(codec="jpeg"),
        replace(site(replace(BROKER, packet_bytes=787_456)), streams=(LARGEST_RAW,)),
        replace(site(replace(BROKER, packet_bytes=1024)), streams=()),  # what cannot be read is told elsewhere
    ],
)
def test_what_fits_together_is_accepted(topology):
    assert told(mqtt.problems(topology)) == []


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (site(transport="kafka"), "mqtt", "no device has transport: mqtt"),
        (site(Mqtt("broker.lan")), "mqtt.broker", "samples go over the network unencrypted"),
        (site(Mqtt("b", None, "u", "p")), "mqtt.broker", "samples and the password go over the network unencrypted"),
        (site(Mqtt("localhost:8883")), "mqtt.broker", "port 8883 is usually the one with TLS"),
        (site(Mqtt("b:1883", Tls())), "mqtt.broker", "port 1883 is usually the one without TLS"),
    ],
)
def test_what_works_but_is_probably_not_intended_is_a_warning(topology, path, message):
    assert told(mqtt.warnings(topology)) == [(path, message)]


@pytest.mark.parametrize("topology", [VALID, site(), site(Mqtt("localhost")), site(Mqtt("b:8883", Tls()))])
def test_encrypted_or_inside_one_machine_there_is_nothing_to_warn_of(topology):
    assert told(mqtt.warnings(topology)) == []
