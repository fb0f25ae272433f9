"""Every exception that crosses a module's boundary.

EdgedError
├── ConfigError           the topology file is wrong: all its problems, with their places (exit 78)
├── FormatError           bytes are not what their format says (tensors, packs, checkpoints, requests)
│   ├── NotProven         a model file could not be tried out now: another time it may, and is tried again
│   └── AnotherVersion    they are what another version of edged writes: kept; of saved state exit 78
├── RejectedRecord        a device's record is unusable: counted and dead-lettered, never fatal
├── RecordTooLarge        Kafka does not accept a record of this size
├── StorageError          a disk or file system refused
│   ├── CheckpointCorrupt a checkpoint is torn or altered: skipped for the one before it
│   ├── BlockAbsent       no file of the archive holds a block
│   ├── ArchiveConflict   the archive ends elsewhere than its writer expects: a second writer
│   ├── BufferFull        a device's buffer has no room for a sample, and may drop none
│   └── DiskFull
├── AlreadyRunning        another process is this node (exit 75)
├── MemoryLimitExceeded   the process exceeds its budget: it saves a checkpoint, ends, and is restarted
├── NoThread              the system starts no thread for this process
├── MachineUnfit          this machine lacks what a node's units need, or refused a change to them
├── KernelsUnavailable    nothing compiled computes here, and why: numpy does
├── TopologyMismatch      saved state belongs to another topology (exit 78)
├── LogRefused            Kafka's answer is no, and would be again (exit 78)
│   └── LogForbidden      it does not know us, or we lack a right (exit 77)
├── LogGap                records that a fold needs were deleted from the log: it resumes from a newer checkpoint
└── TransientError        to be retried, by the adapter that raised it
    ├── LogUnavailable    Kafka does not answer
    ├── ArchiveUnavailable
    │   └── ArchiveFull   it has no room: a full disk, or a quota
    └── SourceRefused     one source cannot be archived now; others can

Foreign exceptions are translated in the adapter, always `raise … from`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class EdgedError(Exception):
    """Base of all errors that edged raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the topology file.

    `path`: of the value ("iot[0].edge"). `place`: "file:line:column", and `source`: the line's text, both filled in
    where the file is known. `suggestion`: what to do, or empty.
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
    """The topology file cannot be used. Holds all its problems."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class FormatError(EdgedError):
    """Bytes do not follow their format. The message names the broken rule."""


class AnotherVersion(FormatError):  # noqa: N818
    """Bytes are in a format that another version of edged writes: worth keeping, whoever cannot read them."""


class NotProven(FormatError):  # noqa: N818
    """The trial of a model file did not come to its end: no process, no memory, no time. Tells nothing of the file."""


class RejectedRecord(EdgedError):  # noqa: N818 - named for what happens to the record
    """A device's record cannot be used. `reason` is one of the stable words in `domain.samples.sample.REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class RecordTooLarge(EdgedError):  # noqa: N818
    """The broker does not accept a record of this size.

    `index`: which of the call's messages it is. `written`: the offsets of the first ones, if all were for one
    partition; those from there on, but for this one, are not refused, and not written either.
    """

    def __init__(self, topic: str, size_bytes: int, written: Sequence[int] = (), index: int = 0) -> None:
        super().__init__(
            f"a record of {size_bytes} bytes is too large for topic {topic} (see its max.message.bytes; "
            "`edged topics --apply` prints the command that raises it)"
        )
        self.topic = topic
        self.size_bytes = size_bytes
        self.written = tuple(written)
        self.index = index


class StorageError(EdgedError):
    """A disk or a file system refused to read or write."""


class StateFolderRefused(StorageError):  # noqa: N818
    """The folder for the node's state cannot be created or written."""


class CheckpointCorrupt(StorageError):  # noqa: N818
    """A checkpoint's digest or structure is wrong."""


class DiskFull(StorageError):  # noqa: N818
    """No space is left; the write was undone."""


class BufferFull(StorageError):  # noqa: N818
    """A device's buffer has reached its bound. Nothing was written."""


class AlreadyRunning(EdgedError):  # noqa: N818
    """Another process on this machine is the same node."""


class MemoryLimitExceeded(EdgedError):  # noqa: N818
    """The process stayed above its memory limit."""


class ArchiveConflict(StorageError):  # noqa: N818
    """The archive does not end where its writer expects; there must be another writer."""


class BlockAbsent(StorageError):  # noqa: N818
    """No file of the archive holds the block: it was never archived, or is in a gap."""


class MachineUnfit(EdgedError):  # noqa: N818
    """The machine lacks what a node's units need, or it refused a change. The message has all reasons, a line each."""


class NoThread(EdgedError):  # noqa: N818
    """The system starts no thread for this process, and what to do."""


class KernelsUnavailable(EdgedError):  # noqa: N818
    """The compiled kernels cannot be used. The message says why, and what to do where that is known."""


class TopologyMismatch(EdgedError):  # noqa: N818
    """Saved state belongs to another model or data set than the topology's."""


class LogRefused(EdgedError):  # noqa: N818
    """Kafka's answer is no, and would be again. The message has the broker's own words, and from where they came."""


class LogForbidden(LogRefused):
    """Kafka does not know the principal, or the principal lacks a right."""


class LogGap(EdgedError):  # noqa: N818
    """The next record of a log has another offset than expected."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the log goes on at offset {found}, not {expected}")
        self.expected = expected
        self.found = found


class TransientError(EdgedError):
    """A retry may succeed."""


class LogUnavailable(TransientError):  # noqa: N818
    """Kafka does not answer within the deadline."""


class MqttRefused(EdgedError):  # noqa: N818
    """The MQTT broker's answer is no, and would be again. The message has its reason, and from where it came."""


class MqttUnavailable(TransientError):  # noqa: N818
    """There is no connection to the MQTT broker, or it broke before the broker answered."""


class ArchiveUnavailable(TransientError):  # noqa: N818
    """The archive does not answer within the deadline."""


class ArchiveFull(ArchiveUnavailable):
    """The archive has no room for what was to be written; the write was undone."""


class SourceRefused(TransientError):  # noqa: N818
    """One source cannot be archived, and others can. `retry_s`: seconds after which to try again."""

    def __init__(self, reason: str, retry_s: float) -> None:
        super().__init__(reason)
        self.retry_s = retry_s
