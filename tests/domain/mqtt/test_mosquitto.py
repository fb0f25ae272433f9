"""Mosquitto's files for a topology; that a real one takes them: tests/integration/test_mosquitto_rights.py."""

from dataclasses import replace

import pytest

from edged.domain.mqtt import mosquitto
from edged.domain.topology import Device, Mqtt, Tls
from tests.support.valid_topology import VALID

LOGIN = Mqtt("broker.lan", None, "${NODE}", "secret-of-a-test", packet_bytes=65_536, window=8)
BY_CERTIFICATE = Mqtt("broker.lan", Tls("/ca", "/c", "/k"))


def site(mqtt=LOGIN):
    return replace(VALID, mqtt=mqtt, iot=(*VALID.iot, Device("esp", "pi-a", "tiles", transport="mqtt")))


def lines(mqtt=LOGIN):
    return list(mosquitto.commands(site(mqtt)))


def test_a_site_without_mqtt_has_nothing_to_set_up():
    assert list(mosquitto.commands(VALID)) == []
    assert list(mosquitto.commands(replace(VALID, mqtt=LOGIN))) == []


def test_packets_and_windows_are_the_topologys():
    assert {"max_packet_size 65536", "max_inflight_messages 8"} <= set(lines())
    assert not any(line.startswith("message_size_limit") for line in lines())


def test_each_user_gets_a_password_and_nothing_shows_one():
    assert "for user in esp pi-a; do" in lines()
    assert "secret-of-a-test" not in "\n".join(lines())


@pytest.mark.parametrize(
    ("mqtt", "listener"),
    [
        (LOGIN, ["listener 1883"]),
        (replace(LOGIN, broker="127.0.0.1:1884"), ["listener 1884 127.0.0.1"]),
        (replace(LOGIN, tls=Tls("/ca")), ["listener 8883", "certfile /etc/mosquitto/certs/broker.pem",
                                          "keyfile /etc/mosquitto/certs/broker.key"]),
        (BY_CERTIFICATE, ["listener 8883", "certfile /etc/mosquitto/certs/broker.pem",
                          "keyfile /etc/mosquitto/certs/broker.key", "cafile /etc/mosquitto/certs/ca.pem",
                          "require_certificate true"]),
    ],
)  # fmt: skip
def test_the_listener_is_what_the_nodes_connect_to(mqtt, listener):
    shown = lines(mqtt)
    assert shown[shown.index(listener[0]) :][: len(listener)] == listener


@pytest.mark.parametrize(
    ("mqtt", "wanted", "unwanted"),
    [
        (
            LOGIN,
            {"allow_anonymous false", "password_file /etc/mosquitto/edged.passwd"},
            "use_identity_as_username true",
        ),
        (BY_CERTIFICATE, {"allow_anonymous false", "use_identity_as_username true"}, "password_file"),
        (Mqtt("broker.lan"), {"allow_anonymous true"}, "acl_file"),
    ],
)
def test_who_comes_is_known_by_what_the_topology_gives(mqtt, wanted, unwanted):
    assert wanted <= set(lines(mqtt))
    assert not any(line.startswith(unwanted) for line in lines(mqtt))
    assert lines(mqtt)[-1].endswith("systemctl restart mosquitto")


def test_the_access_list_has_each_users_rights_under_its_name():
    listed = mosquitto.access_list(site())
    assert listed[listed.index("user pi-a") :] == [
        "user pi-a",
        "topic read lab/iot/esp/#",
        "topic read lab/packs/esp",
        "topic write lab/receipts/esp",
        "topic write lab/predictions/esp/#",
        "topic read lab/edged/pi-a",
        "topic write lab/edged/pi-a",
    ]
