"""What a real Mosquitto would lose, found by the edge: with its own settings and with those that are printed."""

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.services.mqtt.limits import LimitsCheck
from tests.support.mosquitto import Mosquitto, need_mosquitto


@pytest.mark.parametrize(
    ("settings", "has"),
    [
        ((), {"packet_bytes": None, "queued packets": 999}),
        (("max_queued_messages 1000000000", "max_packet_size 50000"), {}),
    ],
)
async def test_a_real_broker_with_its_own_settings_and_with_ours(log_lines, settings, has):
    need_mosquitto()
    health = RecordingHealth()
    with Mosquitto(settings) as mosquitto:
        mqtt = mosquitto.mqtt(packet_bytes=50_000)
        async with PahoBroker(mqtt, health) as broker:
            await LimitsCheck(broker, mqtt, "lab", "pi-a", health).check()
    assert {line["limit"]: line.get("has") for line in log_lines("mqtt.limits")} == has
