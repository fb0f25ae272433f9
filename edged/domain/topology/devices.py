"""Devices, their streams, and how the brokers are reached: values of the topology file, and all that a device loads."""

import re
from dataclasses import dataclass, field
from typing import Literal

from edged.domain.text import normal_form

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names become topics, folders and log fields, so no other characters are allowed."""

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)

_HOST_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?")

Codec = Literal["raw", "jpeg", "png"]
Dtype = Literal["uint8", "float32"]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Transport = Literal["kafka", "mqtt"]
IdKind = Literal["none", "counter", "text"]

MIB = 1 << 20

MQTT_PORT, MQTT_PORT_TLS = 1883, 8883
"""Registered for MQTT without and with TLS."""


@dataclass(frozen=True, slots=True)
class Security:
    """How to reach Kafka. repr hides the passwords. `key_password`: of an encrypted `key`."""

    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Kafka:
    bootstrap: tuple[str, ...]
    security: Security = Security()

    @property
    def is_loopback(self) -> bool:
        """Whether all brokers' addresses are this machine's own."""
        return all(_LOOPBACK.fullmatch(server) for server in self.bootstrap)


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificate files towards the MQTT broker. repr hides the password. `key_password`: of an encrypted `key`."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Mqtt:
    """The MQTT broker, and what a session with it may take. repr hides the password. `tls`: None: unencrypted.

    `packet_bytes`: of the largest packet that anybody sends, all of it. `window`: packets of one device that the broker
    sends before the first of them is acknowledged.
    """

    broker: str
    tls: Tls | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    packet_bytes: int = MIB
    window: int = 32

    @property
    def host(self) -> str:
        """The broker's name or address; an IPv6 address without its brackets."""
        return self._parts[0].strip("[]")

    @property
    def port(self) -> int:
        """The port; by default MQTT_PORT, or MQTT_PORT_TLS."""
        return int(self._parts[1] or (MQTT_PORT if self.tls is None else MQTT_PORT_TLS))

    @property
    def is_loopback(self) -> bool:
        """Whether the broker's address is this machine's own."""
        return _LOOPBACK.fullmatch(self.broker) is not None

    @property
    def _parts(self) -> tuple[str, str | None]:
        found = _HOST_PORT.fullmatch(self.broker)  # not of a variable that is missing here
        return (found[1], found[2]) if found else (self.broker, None)


@dataclass(frozen=True, slots=True)
class Stream:
    """The form of samples. `shape`: [height, width, channels], [length, channels] or any other.

    `labels`: the classes, in the order of the model's outputs; none if samples have none. Whatever they are given as,
    they are in `text.normal_form`, as are those of samples.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(normal_form(label) for label in self.labels))


@dataclass(frozen=True, slots=True)
class Device:
    """With `transport: mqtt`: `id`: how the device numbers its samples, see `domain.mqtt.identity`.

    `receipts`: whether it is told by its own topic which of its samples Kafka holds.
    """

    name: str
    edge: str
    stream: str
    codec: Codec = "raw"
    transport: Transport = "kafka"
    id: IdKind = "none"
    receipts: bool = False
