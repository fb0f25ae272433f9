"""Devices that speak MQTT, and the broker's section: what belongs together, TLS files, what would go unencrypted."""

from collections.abc import Iterator

from edged.domain.mqtt.limits import LARGEST_ENVELOPE
from edged.domain.topology import Device, Mqtt, Topology
from edged.domain.topology.devices import MQTT_PORT, MQTT_PORT_TLS
from edged.domain.validation.finding import Finding
from edged.domain.validation.nodes import sample_bytes

_LAST_PORT = 65_535


def problems(topology: Topology) -> Iterator[Finding]:
    """See `rules.problems`."""
    for i, device in enumerate(topology.iot):
        if device.transport == "mqtt":
            yield from _over_mqtt(f"iot[{i}]", topology, device)
        else:
            yield from _over_kafka(f"iot[{i}]", device)
    if topology.mqtt is not None:
        yield from _section(topology.mqtt)


def warnings(topology: Topology) -> Iterator[Finding]:
    """See `rules.warnings`."""
    mqtt = topology.mqtt
    if mqtt is None:
        return
    if all(device.transport != "mqtt" for device in topology.iot):
        yield Finding("mqtt", "no device has transport: mqtt", "give it to those that publish to this broker", ("iot",))
    if mqtt.tls is None and not mqtt.is_loopback:
        what = "samples and the password go" if mqtt.password else "samples go"
        yield Finding("mqtt.broker", f"{what} over the network unencrypted", "tls: {ca: …} encrypts", ("mqtt.tls",))
    yield from _usual_port(mqtt)


def _usual_port(mqtt: Mqtt) -> Iterator[Finding]:
    """A port that is by custom the other kind's."""
    if mqtt.tls is None and mqtt.port == MQTT_PORT_TLS:
        yield Finding("mqtt.broker", f"port {mqtt.port} is usually the one with TLS", "add tls: {ca: …}", ("mqtt.tls",))
    if mqtt.tls is not None and mqtt.port == MQTT_PORT:
        hint = f"with TLS it is usually {MQTT_PORT_TLS}, which is the default"
        yield Finding("mqtt.broker", f"port {mqtt.port} is usually the one without TLS", hint, ("mqtt.tls",))


def _over_mqtt(at: str, topology: Topology, device: Device) -> Iterator[Finding]:
    if device.receipts and device.id == "none":
        yield Finding(
            f"{at}.receipts", "a receipt names a sample by its id", "add id: counter or id: text", (f"{at}.id",)
        )
    if topology.mqtt is None:
        yield Finding(
            f"{at}.transport",
            "the file does not say where the MQTT broker is",
            "add the section mqtt: {broker: …}",
            ("mqtt",),
        )
        return
    stream = next((each for each in topology.streams if each.name == device.stream), None)
    if stream is None or device.codec != "raw":
        return
    needed = sample_bytes(stream) + LARGEST_ENVELOPE
    if needed > topology.mqtt.packet_bytes:
        yield Finding(
            "mqtt.packet_bytes",
            f'a raw sample of stream "{stream.name}" takes a packet of up to {needed} bytes, the limit is'
            f" {topology.mqtt.packet_bytes}",
            f"packet_bytes: {-(-needed // 1024)}KiB",
            (f"{at}.stream", f"{at}.codec", f"streams.{stream.name}.sample"),
        )


def _over_kafka(at: str, device: Device) -> Iterator[Finding]:
    default, needs = Device("", "", ""), (f"{at}.transport",)
    for key in ("id", "receipts"):
        if getattr(device, key) != getattr(default, key):
            hint = "leave it out, or set transport: mqtt"
            yield Finding(f"{at}.{key}", "transport: kafka does not use it", hint, needs)


def _section(mqtt: Mqtt) -> Iterator[Finding]:
    if not 1 <= mqtt.port <= _LAST_PORT:
        yield Finding("mqtt.broker", f"a port is a number from 1 to {_LAST_PORT}")
    if mqtt.password is not None and mqtt.username is None:
        yield Finding("mqtt.password", "it is used only with its username", "add username", ("mqtt.username",))
    if mqtt.tls is None:
        return
    files = {"certificate": mqtt.tls.certificate, "key": mqtt.tls.key, "key_password": mqtt.tls.key_password}
    for name, other in (("certificate", "key"), ("key", "certificate"), ("key_password", "key")):
        if files[name] is not None and files[other] is None:
            at = f"mqtt.tls.{name}"
            yield Finding(at, f"it is used only with its {other}", f"add {other}", (f"mqtt.tls.{other}",))
