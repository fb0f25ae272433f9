"""Rights at the MQTT broker: each device and edge can do its work and no more."""

from dataclasses import replace

from edged.domain.mqtt.rights import Right, rights, users
from edged.domain.topology import Device, Mqtt
from tests.support.valid_topology import VALID

SITE = replace(
    VALID,
    mqtt=Mqtt("broker.lan"),
    iot=(
        *VALID.iot,
        Device("esp", "pi-a", "tiles", transport="mqtt"),
        Device("arm", "pi-a", "tiles", transport="mqtt"),
    ),
)


def test_a_device_publishes_as_itself_and_is_sent_what_is_for_it():
    assert [right for right in rights(SITE) if right.user == "esp"] == [
        Right("esp", "write", "lab/iot/esp/#"),
        Right("esp", "write", "lab/packs/esp"),
        Right("esp", "read", "lab/receipts/esp"),
        Right("esp", "read", "lab/predictions/esp/#"),
    ]


def test_an_edge_takes_what_its_devices_publish_and_answers_them():
    own = {(operation, topics) for user, operation, topics in rights(SITE) if user == "pi-a"}
    assert own == {
        *(("read", f"lab/iot/{name}/#") for name in ("esp", "arm")),
        *(("read", f"lab/packs/{name}") for name in ("esp", "arm")),
        *(("write", f"lab/receipts/{name}") for name in ("esp", "arm")),
        *(("write", f"lab/predictions/{name}/#") for name in ("esp", "arm")),
        ("read", "lab/edged/pi-a"),
        ("write", "lab/edged/pi-a"),
    }


def test_who_does_not_speak_mqtt_is_no_user():
    assert users(SITE) == ["esp", "arm", "pi-a"]
    assert users(VALID) == []
