"""Sends back what devices publish: plain paho in a process of its own, MQTT 5 and QoS 1 both ways.

    python -m tests.bench.devices_echo HOST:PORT SITE

Run by `devices`, which measures by it what Mosquitto takes from device to device with nothing of edged's in between.
"""

import sys
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edged.domain.mqtt import topics


def topic(site: str, device: str) -> str:
    """Where the device publishes; nothing of edged's listens there."""
    return f"{site}/echo/{device}"


def main() -> None:
    address, site = sys.argv[1:]

    def connected(client: Client, *_: Any) -> None:
        client.subscribe(topic(site, "+"), qos=1)

    def came(client: Client, _data: Any, message: MQTTMessage) -> None:
        back = topics.predictions_topic(site, message.topic.rpartition("/")[2])
        client.publish(back, message.payload, qos=1, properties=message.properties)

    client = Client(CallbackAPIVersion.VERSION2, "echo", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect, client.on_message = connected, came
    client.on_subscribe = lambda *_: print("ready", flush=True)  # noqa: T201 - for `devices`
    host, _, port = address.rpartition(":")
    client.connect(host, int(port))
    client.loop_forever()


if __name__ == "__main__":
    main()
