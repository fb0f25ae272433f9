"""Where the archive's files are kept: objects with names, in folders, on a disk or a distributed store."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol


class Listed(NamedTuple):
    """An object in a folder: its name there, and its bytes."""

    name: str
    size: int


class Manifest(NamedTuple):
    """A small text that is replaced as a whole, and its version: 1 of the first."""

    content: bytes
    version: int


class ObjectStore(Protocol):
    """Objects below one place, such as s3://bucket/edged. Thread-safe; synchronous, for worker threads.

    An object is never changed: it is there whole or not at all, and goes only by `delete`. Names are folders and a last
    part with "/" between them, see `domain.archive.object_name`.

    Whatever is not "absent" or "taken" is raised as ArchiveUnavailable, with the place, the reason and what to do
    (ArchiveFull when there is no room); "absent" is said only while the place itself is there. Every call ends by its
    deadline: `DEADLINE_S` without progress. While one that was given up has not returned, others fail at once.
    """

    @property
    def where(self) -> str:
        """The place, for messages, and who is asked for it; no secrets."""

    def path(self, name: str) -> str:
        """Where the object or folder is, for messages: as other programs name it."""

    def publish(self, name: str, pieces: Sequence[bytes | memoryview]) -> bool:
        """Put the pieces under the name, durably; False when the name is taken by something else.

        True also when just these bytes are there already: so it may be repeated until it has an answer. Folders are
        made as needed. Raises ArchiveUnavailable: it may still come to be there, whole, later.
        """

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        """The bytes from `offset`, at most `length`, fewer only at the object's end; None when it is absent."""

    def size(self, name: str) -> int | None:
        """The object's bytes; None when it is absent."""

    def list(self, folder: str, after: str = "") -> Iterator[Listed]:
        """The objects in the folder itself that come after a name, in the order of their names' bytes.

        None of a folder that is absent. Others may come and go meanwhile; those that are there throughout are listed.
        Foreign files are, too, whatever their names; not what an interrupted `publish` has left. Keep folders of
        objects apart from folders of folders: an object store looks through all that is below.
        """

    def folders(self, folder: str = "") -> Sequence[str]:
        """The names of the folders in the folder, sorted; "" is the place itself."""

    def delete(self, name: str) -> None:
        """See to it that the object is absent."""

    def manifest(self, name: str) -> Manifest | None:
        """The newest version of the manifest; None before its first."""

    def version(self, name: str) -> int:
        """The number of the manifest's newest version; 0 before its first."""

    def replace(self, name: str, content: bytes, version: int) -> bool:
        """Make `content` the version behind `version` (0: the first one); False when there is another one behind it.

        Read it then, and decide again: in the rarest case, that of many others who replaced it within this very call,
        it has this content's change in it. True also when just this content is behind it already, whoever put it there.
        """

    def sweep(self, folder: str) -> None:
        """Delete what this writer's interrupted calls left in the folder, and what others left a day ago."""

    def create(self) -> None:
        """Make the place, if it is missing and can be made: a folder, never a bucket."""

    def probe(self) -> Sequence[str]:
        """Try all of this out at the place. What people should know of it: each one a sentence.

        Raises ArchiveUnavailable where something is missing, refused, or not as promised here.
        """

    def close(self) -> None:
        """End: calls in progress fail at once, and so do later ones. Returns at once, whatever the store does."""
