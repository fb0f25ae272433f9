"""The nodes of two tiers, edges and archives, and what is common to all: values of the topology file.

See also: `devices` (the third tier).
"""

from dataclasses import dataclass, field
from typing import Literal

from edged.domain.topology.devices import MIB

LogLevel = Literal["debug", "info", "warning", "error"]
Role = Literal["ingest", "infer", "deliver", "archiver", "epoch_server"]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`level`: the least that is logged. `resources_s`: seconds between two `res.sample`; None: `Timing.sample_s`."""

    level: LogLevel = "info"
    resources_s: float | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """Bytes of samples kept in memory and on disk; `disk_writes_per_day`: maximum of bytes written to disk in 24 h."""

    memory: int = 24 * MIB
    disk: int = 1024 * MIB
    disk_writes_per_day: int = 8192 * MIB


@dataclass(frozen=True, slots=True)
class Edge:
    """`prefetch`: bytes of epoch data held ahead of the trainer. `memory_limit`: of the whole daemon, in bytes."""

    name: str
    cache: Cache = Cache()
    prefetch: int = 16 * MIB
    memory_limit: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach a bucket; what is None comes from the environment, by AWS's names. repr hides the secrets.

    `endpoint`: the gateway's URL; None: AWS. `ca`: of the authority that signed its certificate.
    """

    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class HdfsAccess:
    """How to reach HDFS. `config`: the folder of Hadoop's own configuration; None: as HADOOP_CONF_DIR says."""

    config: str | None = None
    principal: str | None = None
    keytab: str | None = None


@dataclass(frozen=True, slots=True)
class StreamRetention:
    """What the archive keeps of one stream; None: without this limit."""

    name: str
    age_s: float | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """What the archive keeps of each stream: files up to an age, and up to a size together; None: without a limit.

    `streams`: those with limits of their own instead.
    """

    age_s: float | None = None
    size: int | None = None
    streams: tuple[StreamRetention, ...] = ()

    def of(self, stream: str) -> StreamRetention:
        """What is kept of this stream."""
        own = (each for each in self.streams if each.name == stream)
        return next(own, StreamRetention(stream, self.age_s, self.size))


WhenFull = Literal["reject", "oldest_first"]


@dataclass(frozen=True, slots=True)
class Archive:
    """`flush_s`, `flush_bytes`: age and size at which a file is written, whichever comes first; see `flush_age_s`.

    `trim`: whether it deletes from Kafka what it has archived. `retention`: what it keeps. `when_full`: what it does
    when a local disk is full: write nothing, or delete the oldest. `s3`, `hdfs`: with a `url` of that kind.
    """

    name: str
    url: str
    flush_s: float | None = None
    flush_bytes: int = 32 * MIB
    trim: bool = False
    retention: Retention = Retention()
    when_full: WhenFull = "reject"
    s3: S3Access = S3Access()
    hdfs: HdfsAccess = HdfsAccess()

    @property
    def flush_age_s(self) -> float:
        """`flush_s`, or what suits the store: a remote one is asked for several round trips and keeps each file."""
        if self.flush_s is not None:
            return self.flush_s
        return 10.0 if self.url.startswith("file://") else 60.0
