"""The backend of `ports.ObjectStore` on HDFS.

HDFS shows a file under its name from the moment on that it is created, and what a broken writer leaves is a closed
file, too short, that passes for whole: so it is written under a temporary name, and renamed.
"""

import contextlib
import posixpath
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from urllib.parse import urlsplit

from hdfs_native import Client, FileReader, WriteOptions

from edged.adapters.hdfs.reasons import translated
from edged.adapters.objects.bounded import DEADLINE_S, GoesOn
from edged.adapters.objects.leftovers import is_left, is_temporary, temporary_name
from edged.adapters.objects.store import Store
from edged.domain.archive import object_name
from edged.domain.topology import HdfsAccess
from edged.ports.objects import Listed

_CHUNK_BYTES = 1 << 20
_PER_PAGE = 1000
_MAX_READERS = 64
"""Files whose blocks' places are kept: each range read of another one asks the NameNode first."""

_FAILOVERS = "1"
"""By default a refused connection is tried again for minutes."""

_SILENCE = 0.75
"""Of the deadline, for a DataNode: then another replica is read from, and a write fails with its reason. A busy disk
may take some seconds for what is to be durable."""


def hdfs_store(url: str, access: HdfsAccess, writer: str, deadline_s: float = DEADLINE_S) -> Store:
    """The store at hdfs://namenode:8020/folder; without a host, that of Hadoop's own configuration."""
    parts = urlsplit(url)
    root = posixpath.normpath("/" + parts.path.lstrip("/"))
    where = f"hdfs://{parts.netloc}{root}"
    return Store(
        where,
        lambda: _Hdfs(parts.netloc, root, access, writer, deadline_s),
        lambda error, name: translated(error, posixpath.join(where, name) if name else where, parts.netloc),
        writer,
        deadline_s,
    )


class _Hdfs:
    """A `Backend`."""

    def __init__(self, address: str, root: str, access: HdfsAccess, writer: str, deadline_s: float) -> None:
        silence_ms = str(round(1000 * _SILENCE * deadline_s))
        self._client = Client(
            f"hdfs://{address}" if address else None,
            {"dfs.client.failover.max.attempts": _FAILOVERS, "dfs.client.socket-timeout": silence_ms},
            access.config,
            kerberos_principal=access.principal,
            kerberos_keytab=access.keytab,
        )
        self._root = root
        self._writer = writer
        self._lock = threading.Lock()
        self._readers: OrderedDict[str, FileReader] = OrderedDict()

    def put(self, name: str, pieces: Sequence[bytes | memoryview], goes_on: GoesOn) -> bool:
        """1. Write it under a temporary name; 2. hsync; 3. close; 4. rename, never over what is there."""
        folder, last = object_name.parts(name)
        self.require_place()
        temporary, path = self._path(posixpath.join(folder, temporary_name(last, self._writer))), self._path(name)
        try:
            # Not `Client.create`: what that gives closes itself when it is collected, by any thread, and may hang.
            writer = self._client.inner.create(temporary, WriteOptions(overwrite=True, create_parent=True))
            for piece in pieces:
                view = memoryview(piece).cast("B")
                for begin in range(0, view.nbytes, _CHUNK_BYTES):
                    goes_on()
                    writer.write(bytes(view[begin : begin + _CHUNK_BYTES]))  # a memoryview takes ten times the CPU
            goes_on()
            writer.hsync()
            writer.close()
            goes_on()
            self._client.rename(temporary, path, overwrite=False)
        except FileExistsError:
            self._delete(temporary)
            return False
        except FileNotFoundError:
            # The client repeats a rename whose answer was lost, and then misses what it has renamed.
            if self.size(name) is None:
                raise
            return False
        except BaseException:
            with contextlib.suppress(Exception):
                goes_on()  # a call that was given up asks nothing more of a server that hangs
                self._delete(temporary)
            raise
        return True

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        with self._lock:
            reader = self._readers.get(name)
        if reader is not None:
            with contextlib.suppress(Exception):  # its blocks are elsewhere by now, or it is gone
                return _range(reader, offset, length)
        try:
            reader = self._client.read(self._path(name))
        except FileNotFoundError:
            self._forget(name)
            return None
        content = _range(reader, offset, length)
        with self._lock:
            self._readers[name] = reader
            self._readers.move_to_end(name)
            if len(self._readers) > _MAX_READERS:
                self._readers.popitem(last=False)
        return content

    def size(self, name: str) -> int | None:
        try:
            status = self._client.get_file_info(self._path(name))
        except FileNotFoundError:
            return None
        return None if status.isdir else status.length

    def pages(self, folder: str, after: str) -> Iterator[Sequence[Listed]]:
        with contextlib.suppress(FileNotFoundError):
            entries = self._client.list_status(self._path(folder))
            while page := list(islice(entries, _PER_PAGE)):
                found = ((each.path.rpartition("/")[2], each) for each in page if not each.isdir)
                yield [Listed(name, each.length) for name, each in found if name > after and not is_temporary(name)]

    def folders(self, folder: str) -> Sequence[str]:
        try:
            entries = self._client.list_status(self._path(folder))
            return [each.path.rpartition("/")[2] for each in entries if each.isdir]
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        self._forget(name)
        self._delete(self._path(name))

    def sweep(self, folder: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            for each in self._client.list_status(self._path(folder)):
                name = each.path.rpartition("/")[2]
                if is_left(name, self._writer, time.time() - each.modification_time / 1000):
                    self._delete(posixpath.join(self._path(folder), name))

    def create(self) -> None:
        self._client.mkdirs(self._root, create_parent=True)

    def require_place(self) -> None:
        if not self._client.get_file_info(self._root).isdir:
            raise NotADirectoryError(f"{self._root} is no folder")

    def notes(self, name: str) -> Sequence[str]:
        status = self._client.get_file_info(self._path(name))
        if status.replication == 1:
            return ("HDFS keeps one copy of each block here (dfs.replication): a lost disk loses samples",)
        return ()

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name) if name else self._root

    def _delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._client.delete(path, recursive=False)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._readers.pop(name, None)


def _range(reader: FileReader, offset: int, length: int) -> bytes:
    length = min(length, max(0, len(reader) - offset))
    return reader.read_range(offset, length) if length else b""
