"""Who may do what at the MQTT broker: each node's user is its name, as in Kafka.

Values only; any broker's access list can be made of them. See also: `mosquitto`, which writes Mosquitto's.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from edged.domain.mqtt.topics import (
    of_device,
    packs_topic,
    predictions_topic,
    probe_topic,
    receipts_topic,
    samples_topic,
)
from edged.domain.topology import Topology


class Right(NamedTuple):
    """`write`: publish to topics that match; `read`: be sent what is published to them."""

    user: str
    operation: Literal["read", "write"]
    topics: str


def rights(topology: Topology) -> list[Right]:
    """The minimum that each device and edge needs, by user."""
    return [*_of_devices(topology), *_of_edges(topology)]


def users(topology: Topology) -> list[str]:
    """Who needs any, in the order of the tiers."""
    return list(dict.fromkeys(right.user for right in rights(topology)))


def _of_devices(topology: Topology) -> Iterator[Right]:
    site = topology.site
    for name in (device.name for device in topology.iot if device.transport == "mqtt"):
        yield Right(name, "write", f"{samples_topic(site, name)}/#")
        yield Right(name, "write", packs_topic(site, name))
        yield Right(name, "read", receipts_topic(site, name))
        yield Right(name, "read", f"{predictions_topic(site, name)}/#")


def _of_edges(topology: Topology) -> Iterator[Right]:
    site = topology.site
    for edge in (edge.name for edge in topology.edges if topology.mqtt_devices_of(edge.name)):
        for device in topology.mqtt_devices_of(edge):
            yield from (Right(edge, "read", topics) for topics in of_device(site, device.name))
            yield Right(edge, "write", receipts_topic(site, device.name))
            yield Right(edge, "write", f"{predictions_topic(site, device.name)}/#")
        yield Right(edge, "read", probe_topic(site, edge))
        yield Right(edge, "write", probe_topic(site, edge))
