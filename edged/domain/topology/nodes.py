"""The nodes of the three tiers, their streams, and how Kafka is reached: values of the topology file."""

import re
from dataclasses import dataclass, field
from typing import Literal

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names become topics, folders and log fields; nothing else is ever allowed in them."""

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\]):\d+", re.IGNORECASE)

Codec = Literal["raw", "jpeg", "png"]
Dtype = Literal["uint8", "float32"]
Role = Literal["ingest", "infer", "archiver", "epoch_server"]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Security:
    """How to reach Kafka. The password is never shown by repr."""

    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Kafka:
    bootstrap: tuple[str, ...]
    security: Security = Security()

    @property
    def is_loopback(self) -> bool:
        """Whether all brokers are named as being on this machine."""
        return all(_LOOPBACK.fullmatch(server) for server in self.bootstrap)


@dataclass(frozen=True, slots=True)
class Stream:
    """What samples look like. `shape` is [height, width, channels], [length, channels] or any.

    `labels` are the classes, in order; none where samples come without.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    edge: str
    stream: str
    codec: Codec = "raw"
    transport: Literal["kafka", "mqtt"] = "kafka"


@dataclass(frozen=True, slots=True)
class Cache:
    """Bytes of samples kept in memory and on disk; `disk_writes_per_day`: bytes written to the disk for it, in 24 h."""

    memory: int = 32 * MIB
    disk: int = 1024 * MIB
    disk_writes_per_day: int = 8192 * MIB


@dataclass(frozen=True, slots=True)
class Edge:
    """`prefetch`: bytes of epoch data held ahead of the trainer. `memory_limit`: bytes of the whole daemon."""

    name: str
    cache: Cache = Cache()
    prefetch: int = 16 * MIB
    memory_limit: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class Archive:
    """`flush_s`, `flush_bytes`: a file is written when this old or this large, whichever comes first."""

    name: str
    url: str
    flush_s: float = 10.0
    flush_bytes: int = 32 * MIB
