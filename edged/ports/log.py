"""Apache Kafka, as far as edged needs it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edged.domain.place import Place, fingerprint

KEPT = -1
"""As `TopicSpec.retention_ms`: no record is deleted for its age, nor for how many there are."""

_COMPACTED_SEGMENT_BYTES = 16 << 20
_KEPT_SEGMENT_BYTES = 128 << 20
"""What `Log.trim` deletes leaves the broker's disk by whole segments."""


class TopicPartition(NamedTuple):
    """One ordered log."""

    topic: str
    partition: int = 0


class Watermarks(NamedTuple):
    """The first offset still kept (`low`) and the next to be written (`high`).

    `stable`, Kafka's last stable offset: of the first record in a transaction that is still open; else `high`.
    """

    low: int
    stable: int
    high: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read from the log. `timestamp_ms` is Unix time, set by the producer or the broker.

    `incarnation` and `topic_id`: whose record it is, see `domain.place`.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    incarnation: str = ""
    topic_id: str = ""

    def place_after(self) -> Place:
        """The place of who has read this record. Hashes its content."""
        before = fingerprint(self.offset, self.timestamp_ms, self.key, self.value, self.headers)
        return Place(self.offset + 1, self.incarnation, self.topic_id, before)


class Committed(NamedTuple):
    """What a consumer group keeps of a partition: the next place to read, and what else was committed with it."""

    place: Place
    note: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One record to be written. `timestamp_ms`: for topics that keep their writers' time; None: the present time."""

    topic: str
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = 0
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic the topology needs. `retention_ms` None: the broker's default; KEPT: unlimited.

    `compacted`: the newest record of each key is kept for ever, older ones are deleted eventually.
    Records get the broker's time: a writer's clock decides neither how long they are kept nor whether they are taken.
    """

    name: str
    partitions: int = 1
    retention_ms: int | None = None
    max_message_bytes: int | None = None
    compacted: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """Kafka's topic settings, without those left to the broker's defaults."""
        given = {"retention.ms": self.retention_ms, "max.message.bytes": self.max_message_bytes}
        settings = {"message.timestamp.type": "LogAppendTime"}
        settings |= {key: str(value) for key, value in given.items() if value is not None}
        if self.retention_ms == KEPT:
            settings |= {"retention.bytes": "-1", "cleanup.policy": "delete", "segment.bytes": str(_KEPT_SEGMENT_BYTES)}
        if self.compacted:
            # Compaction leaves the active segment alone, which by default grows to 1 GiB.
            settings |= {"cleanup.policy": "compact", "segment.bytes": str(_COMPACTED_SEGMENT_BYTES)}
        return settings


class LogReader(Protocol):
    """Reads partitions from given positions, in order, without a consumer group's rebalancing.

    Delivers records, up to the last stable offset: none of an aborted transaction, no transaction's marker, no batch
    that cannot be decoded. Offsets of what is no record are passed, also when no record follows.
    """

    @property
    def may_show_gaps(self) -> bool:
        """Whether a record may come before the one in front of it, so that a gap is to be read again.

        The embedded broker's may, while several write; of Kafka's, an offset that is missing is no record.
        """

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, at most `max_records`; empty when none came within `timeout_s`.

        Also empty while the broker is unavailable: the adapter reconnects by itself and reports health. A gap (records
        deleted before they were read) is logged as `kafka.gap` and reading continues after it. A partition that has
        become another log (see `domain.place`) is logged as `kafka.another_log` and read from its beginning: the
        records' `incarnation` tells which log each is of.
        Cancel-safe: a record is either returned or delivered again by the next poll.
        """

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Deliver `offset` next from `partition`; takes effect at the next poll."""

    async def commit(self, places: Mapping[TopicPartition, Place], note: str = "") -> None:
        """Commit the next places to read, for lag tools and restarts, each with the note. Needs the reader's group."""

    def position(self, partition: TopicPartition) -> int:
        """The offset from which the next poll delivers; after an empty poll, past all that is no record."""

    def place(self, partition: TopicPartition) -> Place:
        """The place of `position`, after what was delivered. Hashes the last record delivered."""

    def lag(self) -> int:
        """Offsets not yet passed, by the ends last seen; 0 before the first response."""

    def lag_by_topic(self) -> dict[str, int]:
        """The lag of each topic that has one."""


class Membership(Protocol):
    """A process's part of the topics that the members of a group share. Reads and commits nothing.

    Each partition is one member's, by `domain.archive.sharing`; within a minute another's, of a process that is killed.
    For a moment a member may still hold what is another's already, and for longer one that was not running: whatever
    must not be done twice needs a guard of its own.
    """

    @property
    def held(self) -> frozenset[TopicPartition]:
        """The partitions that are this member's now. None of them for as long as nothing was heard of the group."""

    async def other_than(self, known: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """What is held once that is not `known`, however long it takes. For one caller, who always waits here."""


class Log(Protocol):
    """Apache Kafka, as far as edged needs it. While the broker is unavailable every method waits; cancel to stop."""

    def reader(
        self, positions: Mapping[TopicPartition, Place | int], *, group: str | None = None, own: bool = False
    ) -> AbstractAsyncContextManager[LogReader]:
        """A reader of exactly these partitions, from exactly these places.

        An offset alone is one of the log as it is now; a place that is of another log is treated as by `resume`.
        `own`: to look up what this node has written itself, which is in no transaction: up to the high watermark,
        however long others' transactions are open. It delivers none of their records that are not committed.
        """

    def join(self, group: str, topics: Collection[str]) -> AbstractAsyncContextManager[Membership]:
        """Inside, this process is a member of the group; leaving gives what it holds to the others at once.

        Each member shares in the topics that it names, all their partitions, and in those that come later, too. Nobody
        else may commit in the group's name.
        """

    async def resume(self, kept: Mapping[TopicPartition, Place]) -> dict[TopicPartition, Place]:
        """Where to read on: each kept place, or the beginning of what has become another log, which has its own name.

        A place of a partition that does not exist is returned as it is. Logs nothing.
        """

    async def append(self, messages: Sequence[Message], *, refuse_too_large: bool = False) -> list[int]:
        """Write the messages in order; return their offsets once all are acknowledged by all in-sync replicas.

        When it returns, each message is in the log exactly once, also if the connection broke in between:
        an attempt with unknown outcome is looked up in the log by its `edged-id` header before it is repeated.
        Waits while a topic takes no message of this size, for its administrator may raise it; with
        `refuse_too_large`, for those who can do with smaller ones, raises RecordTooLarge. Raises RecordTooLarge
        for a message above 1 MiB in any case. Cancelled: each message may or may not be in the log.
        """

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        """The watermarks now. A partition that does not exist yet has (0, 0, 0)."""

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        """What the group has committed; partitions without it are left out."""

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """The number of partitions of each topic; topics that do not exist are left out."""

    async def trim(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Delete the records before these offsets; the partitions' low watermarks then.

        Raises LogRefused when the broker does not: it cannot, or the principal may not. Cancelled: deleted or not.
        """

    async def ensure(self, topics: Sequence[TopicSpec]) -> list[str]:
        """Create missing topics, and leave existing ones as they are; those that the broker does not let us create.

        The others are there when it returns, also those that somebody else was creating.
        """

    async def settings(self, topics: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
        """These settings of each topic; topics that do not exist, or whose settings we may not see, are left out."""
