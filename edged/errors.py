"""Every exception that crosses a module's border.

EdgedError
├── ConfigError           the topology file is wrong: every problem, with its place (exit 78)
├── FormatError           bytes are not what their format says (tensors, packs, checkpoints, requests)
├── RejectedRecord        one device record is bad: counted and dead-lettered, never fatal
├── RecordTooLarge        Kafka takes no record of this size
├── StorageError          a disk or file system refused
│   ├── CheckpointCorrupt a checkpoint is torn or altered: skipped, the one before it is used
│   ├── ArchiveConflict   the archive goes on elsewhere than its writer believes: a second writer
│   └── DiskFull
├── AlreadyRunning        another process is this node (exit 75)
├── MemoryLimitExceeded   the process outgrew its budget: it checkpoints, ends, and is started afresh
├── TopologyMismatch      saved state belongs to another topology (exit 78)
├── LogGap                records that a fold needs are not in the log any more: it goes on from a newer checkpoint
└── TransientError        worth another try, by the adapter that met it
    ├── LogUnavailable    Kafka does not answer
    └── ArchiveUnavailable

Foreign exceptions are translated at the adapter's border, always `raise … from`.
"""

from dataclasses import dataclass


class EdgedError(Exception):
    """Base of all errors that edged raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the topology file.

    `path` is the way to the value ("iot[0].edge"); `place` is "file:line:column" and `source` the line's
    text, both filled in by whoever knows the file. The suggestion is a whole sentence or empty.
    """

    path: str
    message: str
    suggestion: str = ""
    place: str = ""
    source: str = ""

    def __str__(self) -> str:
        head = f"{self.place}: " if self.place else ""
        path = f"{self.path}: " if self.path else ""
        tail = f" ({self.suggestion})" if self.suggestion else ""
        return f"{head}{path}{self.message}{tail}"


class ConfigError(EdgedError):
    """The topology file cannot be used. Carries all its problems at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class FormatError(EdgedError):
    """Bytes do not follow their format. The message says which rule was broken."""


class RejectedRecord(EdgedError):  # noqa: N818 - named for what happens to the record
    """A device's record cannot be used. `reason` is one of the stable words in `domain.sample.REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class RecordTooLarge(EdgedError):  # noqa: N818
    """The broker does not take a record of this size. Other messages of the same call may be in the log."""

    def __init__(self, topic: str, size_bytes: int) -> None:
        super().__init__(f"a record of {size_bytes} bytes is too large for topic {topic}")
        self.topic = topic
        self.size_bytes = size_bytes


class StorageError(EdgedError):
    """A disk or a file system refused to read or write."""


class StateFolderRefused(StorageError):  # noqa: N818
    """The folder for the node's state cannot be made or written."""


class CheckpointCorrupt(StorageError):  # noqa: N818
    """A checkpoint's digest or structure is wrong."""


class DiskFull(StorageError):  # noqa: N818
    """No space is left; what was being written has been taken back."""


class AlreadyRunning(EdgedError):  # noqa: N818
    """Another process on this machine is the same node."""


class MemoryLimitExceeded(EdgedError):  # noqa: N818
    """The process stayed above its memory limit."""


class ArchiveConflict(StorageError):  # noqa: N818
    """The archive does not end where its writer believes; there must be another writer."""


class TopologyMismatch(EdgedError):  # noqa: N818
    """Saved state belongs to another model or data set than the topology names."""


class LogGap(EdgedError):  # noqa: N818
    """A log goes on elsewhere than at the record that is to be read next."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the log goes on at offset {found}, not {expected}")
        self.expected = expected
        self.found = found


class TransientError(EdgedError):
    """Another try may succeed."""


class LogUnavailable(TransientError):  # noqa: N818
    """Kafka does not answer within the deadline."""


class ArchiveUnavailable(TransientError):  # noqa: N818
    """The archive does not answer within the deadline."""
