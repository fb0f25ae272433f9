"""The MQTT broker's address."""

import pytest

from edged.domain.topology import Mqtt, Tls


@pytest.mark.parametrize(
    ("broker", "tls", "host", "port"),
    [
        ("broker.lan", None, "broker.lan", 1883),
        ("broker.lan", Tls(), "broker.lan", 8883),
        ("broker.lan:1884", Tls(), "broker.lan", 1884),
        ("[::1]", None, "::1", 1883),
        ("[fe80::1]:18830", None, "fe80::1", 18830),
        ("${cred:broker}", None, "${cred:broker}", 1883),
    ],
)
def test_the_port_is_the_registered_one_unless_it_is_given(broker, tls, host, port):
    mqtt = Mqtt(broker, tls)
    assert (mqtt.host, mqtt.port) == (host, port)


@pytest.mark.parametrize("broker", ["localhost", "127.0.0.1:1884", "[::1]", "[::1]:1883", "LOCALHOST:1"])
def test_a_machine_knows_its_own_addresses(broker):
    assert Mqtt(broker).is_loopback
    assert not Mqtt(broker.replace("1", "2").replace("l", "x").replace("L", "x")).is_loopback
