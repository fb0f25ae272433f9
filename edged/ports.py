"""What the services ask of the outside world, as protocols of a few methods.

Each port has a fake in `adapters.memory` (or beside its adapter) and one contract suite in tests/contracts that
runs on the fake and on the real thing. No adapter is named here.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple, dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.cache.entry import Entry, SampleKey
from edged.domain.samples.pack import Pack
from edged.domain.topology import Codec, Dtype

_COMPACTED_SEGMENT_BYTES = 16 << 20


class TopicPartition(NamedTuple):
    """One ordered log."""

    topic: str
    partition: int = 0


class Watermarks(NamedTuple):
    """The first offset still kept (`low`) and the next to be written (`high`)."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read from the log. `timestamp_ms` is Unix time, set by the producer or the broker."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One record to be written. Without `timestamp_ms` the present time is taken."""

    topic: str
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = 0
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic the topology needs. `retention_ms` None: the broker's default.

    `compacted`: the newest record of each key is kept for ever, the others go some time.
    """

    name: str
    partitions: int = 1
    retention_ms: int | None = None
    max_message_bytes: int | None = None
    compacted: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """Kafka's names and values for what is not the broker's default."""
        given = {"retention.ms": self.retention_ms, "max.message.bytes": self.max_message_bytes}
        settings = {key: str(value) for key, value in given.items() if value is not None}
        if self.compacted:
            # What is superseded goes only from segments that are full; by default they are of 1 GiB.
            settings |= {"cleanup.policy": "compact", "segment.bytes": str(_COMPACTED_SEGMENT_BYTES)}
        return settings


class LogReader(Protocol):
    """Reads partitions from given positions, in order, without a consumer group's rebalancing."""

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, at most `max_records`; empty when none came within `timeout_s`.

        Also empty while the broker is away: the adapter reconnects by itself and reports health. A gap (records
        deleted before they were read) is logged as `kafka.gap` and reading goes on behind it.
        Cancel-safe: a record is either returned or delivered again by the next poll.
        """

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Deliver `offset` next from `partition`; takes effect at the next poll."""

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell the broker the next offsets wanted, for lag tools and restarts. Needs the reader's group."""

    def position(self, partition: TopicPartition) -> int:
        """The next offset that a poll will deliver, if there is such a record: behind what nobody can read, too."""

    def lag(self) -> int:
        """Records not yet delivered, by the high watermarks last seen; before the first answer, none."""


class Log(Protocol):
    """Apache Kafka, as far as edged needs it. Every method waits while the broker is away; cancel to give up."""

    def reader(
        self, positions: Mapping[TopicPartition, int], *, group: str | None = None
    ) -> AbstractAsyncContextManager[LogReader]:
        """A reader of exactly these partitions, from exactly these offsets."""

    async def append(self, messages: Sequence[Message]) -> list[int]:
        """Write the messages in order; return their offsets once all are acknowledged by all in-sync replicas.

        When it returns, each message is in the log exactly once, also if the connection broke in between:
        a try whose fate is unknown is looked up in the log by its `edged-id` header before it is repeated.
        Cancelled: each message may or may not be in the log.
        """

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        """Low and high watermarks now. A partition that does not exist yet has (0, 0)."""

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's committed offsets; partitions without one are left out."""

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """How many partitions each topic has; topics that do not exist are left out."""

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing, where the broker allows it; leave others as they are."""


class Progress(NamedTuple):
    """A service's sign of life for the watchdog: `steps` rises with work done; `idle`: no work is there to do."""

    steps: int
    idle: bool


@dataclass(frozen=True, slots=True)
class Statistics:
    """A service's share of the monitor's series. Totals since start but for the last three, which are now."""

    trained_samples: int = 0
    wait_s: float = 0.0
    """Time the trainer waited for data."""
    ingested_samples: int = 0
    dead_lettered: int = 0
    archived_samples: int = 0
    predicted_samples: int = 0
    served_samples: int = 0
    lag_records: int = 0
    queue_bytes: int = 0
    cache_bytes: int = 0

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Health(Protocol):
    """Where a part says that it cannot do its work for now, and that it can again."""

    def degraded(self, part: str, reason: str) -> None:
        """`part` (one word: kafka, archive, disk) is not usable because of `reason`. Repeating it is free."""

    def recovered(self, part: str) -> None:
        """`part` works. Free when it was never degraded."""


@dataclass(frozen=True, slots=True)
class HostSample:
    """The machine and this process at one moment. None: the host does not let us read it.

    Times in seconds and bytes read, written, received or sent are totals that never fall while the process runs.
    """

    process_cpu_s: float
    """CPU time of this process, all its threads."""
    rss_bytes: int
    peak_rss_bytes: int
    cpu_s: float | None = None
    """Time that the machine's cores were busy, summed over them."""
    memory_used_bytes: int | None = None
    """The machine's memory that could not be had for something else."""
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    net_received_bytes: int | None = None
    net_sent_bytes: int | None = None
    temperature_c: float | None = None
    throttled_flags: int | None = None
    """Raspberry Pi: bit 0 under-voltage, 1 capped, 2 throttled, 3 soft temperature limit; 16 to 19 the same, ever."""
    disk_free_bytes: int | None = None
    """Space left where the node keeps its state."""


class Host(Protocol):
    """The machine's and the process's counters."""

    def sample(self) -> HostSample:
        """The counters now. Takes about a millisecond and waits for no disk; never raises for what is unreadable."""


class Notifier(Protocol):
    """The service manager: systemd, or nobody. No method waits or raises."""

    @property
    def watchdog_s(self) -> float | None:
        """The process counts as hung when `watchdog` was not called for this long; None: nobody watches."""

    def ready(self) -> None:
        """Start-up is over."""

    def status(self, text: str) -> None:
        """One line for people."""

    def watchdog(self) -> None:
        """The process is alive."""

    def extend_timeout(self, seconds: float) -> None:
        """Start-up or stop takes this much longer from now; repeat before it has passed."""

    def stopping(self) -> None:
        """A clean stop has begun."""


class ImageDecoder(Protocol):
    """Compressed images to pixels."""

    def decode(self, payload: bytes, codec: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Pixels of `payload` (codec "jpeg" or "png") as uint8 of `shape` (height, width, channels).

        The image is converted to the shape's channels and scaled to its size where they differ. Sizes are checked
        before any pixel is decoded. Raises RejectedRecord.
        """


class ArchiveStore(Protocol):
    """The archive's files. Synchronous: callers run it in a worker thread."""

    def ends(self, stream: str) -> dict[str, int]:
        """Next offset to archive for each source that has any file."""

    def cursors(self, stream: str, source: str) -> dict[str, int]:
        """Next device offset by "device/partition", as archived so far; for leaving out duplicates."""

    def append(
        self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Make (offset, pack) pairs durable as one file, or raise StorageError.

        `gaps`: (first, next) offsets that the log had deleted before they could be read, kept as known losses.
        Packs and gaps together are contiguous and start at `ends()[source]` (anywhere, when the source is new), else
        ArchiveConflict is raised; or they cover exactly the last file's offsets, which are then written again, so
        that a try whose fate is unknown can be repeated. On return the file is on stable storage under its final
        name; a crash before leaves nothing that a reader would see.
        """

    def snapshot(self, stream: str, ends: Mapping[str, int] | None = None) -> Snapshot:
        """All blocks, or those below `ends`, sorted by (source, offset)."""

    def read(self, stream: str, refs: Sequence[BlockRef]) -> Iterable[tuple[BlockRef, Pack]]:
        """Each block's samples, in the order asked. Raises StorageError for one that is missing or corrupt."""

    def remove_leftovers(self, stream: str, source: str) -> None:
        """Delete what a crash left of unfinished files. Only for the source's one writer, before its first append."""


class ArchiveWriter(Protocol):
    """The archive as the archiver writes it: every method waits while the storage refuses; cancel to give up."""

    @property
    def tries(self) -> int:
        """Calls to the storage so far, failed ones too: a sign of life while it refuses."""

    async def resume(self, stream: str, source: str) -> tuple[int, dict[str, int]]:
        """The source's next offset to archive (0 when it is new) and its cursors; clears what a crash left."""

    async def append(
        self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        """As `ArchiveStore.append`. Cancelled: the file is either whole or not there; the same may be appended again.

        Raises ArchiveConflict.
        """


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """A model file that the companion may serve: a classifier of `labels`, or without any an autoencoder.

    `anomaly_threshold`: see `domain.anomaly`; None where no samples were held out.
    """

    generation: int
    content: bytes
    labels: tuple[str, ...]
    sample_shape: tuple[int, ...]
    anomaly_threshold: float | None = None


class CheckpointStore(Protocol):
    """Checkpoints and the deployed models beside them. Synchronous: callers run it in a worker thread."""

    @property
    def place(self) -> str:
        """Where they are kept, for people."""

    def save(self, checkpoint: bytes, generation: int) -> None:
        """Durable when it returns (write, fsync, rename, fsync the folder); keeps the 3 newest."""

    def save_epoch_memo(self, memo: bytes, epoch: int) -> None:
        """Durable when it returns; keeps those of this epoch and of the 2 before it."""

    def epoch_memo(self, epoch: int) -> bytes | None:
        """The memo saved for `epoch`, unvalidated; None when there is none that can be read."""

    def deploy(self, model: DeployedModel) -> None:
        """Put the model where the companion finds it, atomically; keeps the 3 newest."""

    def checkpoints(self) -> Iterable[tuple[int, bytes]]:
        """(generation, content) newest first, unvalidated; unreadable files are skipped and logged."""

    def newest_model(self, newer_than: int = -1) -> DeployedModel | None:
        """The newest whole model of a generation above `newer_than`; torn or altered ones are skipped."""


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a data set. `payload` is in `codec`: "raw" (the array's bytes, C order), "jpeg" or "png".

    `label` is None in data sets without labels.
    """

    label: str | None
    codec: Codec
    payload: bytes


class Dataset(Protocol):
    """A finished, labelled set of samples with random access, from which a sensor replays. Synchronous."""

    @property
    def name(self) -> str:
        """What people call it; for logs."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that items may have, in the data set's own order; empty: without labels."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of every raw payload; None when items are images of any size."""

    @property
    def dtype(self) -> Dtype:
        """The dtype of raw payloads (little-endian), and of decoded images."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its parts; never empty."""

    def count(self, split: str) -> int:
        """How many items the split has. Raises KeyError for a split that is not there."""

    def sample(self, split: str, index: int) -> Item:
        """Item `index` of the split, always the same. Raises IndexError, StorageError, FormatError."""


class FeatureExtractor(Protocol):
    """The frozen layers of a model."""

    def features(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Features, float32 [n, *feature shape], of normalised samples float32 [n, *sample shape], any n."""


class Classifier(Protocol):
    """A loaded model."""

    def predict(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Class probabilities, float32 [n, classes], of normalised samples float32 [n, *sample shape]."""


class DiskTier(Protocol):
    """The cache's entries on a disk. Synchronous: callers run it in a worker thread, one call at a time.

    It holds copies alone: what is lost or damaged is left out and counted, never an error. Opened for one namespace
    (site, stream, shape, dtype); another's entries are dropped when it is opened.
    """

    @property
    def num_corrupt(self) -> int:
        """Entries found torn, altered or unreadable so far, and dropped."""

    @property
    def capacity_bytes(self) -> int:
        """Stored bytes that fit into its budget, as far as its entries so far show; changes as they come."""

    @property
    def used_bytes(self) -> int:
        """What the entries take, page by page: the sum of their stored bytes."""

    @property
    def written_bytes(self) -> int:
        """Bytes written to the device since it was opened, whole pages and log included.

        As the kernel counts pages made dirty, else reckoned from above: each entry's pages twice.
        """

    @property
    def note(self) -> str:
        """The owner's text of last time, "" at first."""

    def remember(self, note: str) -> None:
        """Keep the owner's text: written along with the next entries, or when the tier is closed."""

    def get_many(self, keys: Iterable[SampleKey]) -> dict[SampleKey, Entry]:
        """The entries of those keys that are there and whole; corrupt ones are dropped."""

    def put_many(self, entries: Mapping[SampleKey, Entry]) -> dict[SampleKey, int]:
        """Store the entries; their keys with the bytes that each takes.

        Raises DiskFull or StorageError when the disk or the budget takes no more: some of them may be stored then,
        each whole; `keys` tells which. An entry once stored comes back after a crash of the process.
        """

    def delete_many(self, keys: Iterable[SampleKey]) -> None:
        """Forget the entries, if they are there. A crash may bring them back."""

    def keys(self) -> Iterable[tuple[SampleKey, int]]:
        """Every key with its stored bytes."""

    def close(self) -> None:
        """Write what is due and let go of the files. Never raises."""
