"""The cache's tier on a disk: the port DiskTier in one SQLite file.

    cache.sqlite        entries by slot, the sources' names, the namespace and the owner's note
    cache.sqlite-wal    the latest commits; SQLite moves them into the file every MiB

A new entry takes the slot of a deleted one, so that a full cache overwrites in place: pages stay filled and a replaced
entry costs one page. The write-ahead log makes commits atomic under kill -9. Nothing is synced to the device: after a
power cut the file may be damaged, which SQLite's checks and each entry's CRC-32, bound to its key, detect. A file that
is damaged as a whole is recreated, as it holds copies only.

SQLite and not LMDB: with entries of 784 bytes LMDB's file grows to three times its content, and it writes more; and it
maps its file, so that a truncated one kills the process by SIGBUS where SQLite raises. LMDB reads faster, and writes
large entries once, SQLite twice. tests/bench/disk_store.py measures both.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edged.access import why_unusable
from edged.domain.cache import entry as cache_entry
from edged.domain.cache.block_table import BlockTable
from edged.domain.cache.entry import Entry, SampleKey
from edged.errors import DiskFull, FormatError, StorageError
from edged.log import logger

MIN_BUDGET_BYTES = 1 << 20
"""Below this the store's own pages would take most of the budget."""

MAX_LOG_BYTES = 4 << 20
"""The write-ahead log stays below this: a MiB until it is moved into the file, and what one transaction adds."""

_PAGE = 4096
_APPLICATION_ID = 0x65646763  # "edgc"
_SCHEMA = 1
_MAX_BATCH_ENTRIES = 128
_MAX_BATCH_BYTES = 256 * 1024
_MAX_CELL = 4060
_FILLED = 0.95
"""The share of the estimated capacity that the tier offers: the next entries may fill their pages less well."""

_ROW_BYTES = 24
"""Of one entry besides its blob: the slot, the key, the cell's header."""

_IO = Path("/proc/thread-self/io")
"""The kernel's counters of this thread; without them written bytes are an upper estimate."""


class SqliteCache:
    """A `ports.DiskTier` in `folder`, which is created if missing; one process at a time.

    `budget_bytes` limits the files, including overhead and log. `namespace`: what the entries belong to; those of
    another are dropped, as is a file that is damaged, foreign or above the budget, with the event cache.recreated.
    `compress`: deflate payloads where that saves a tenth. Raises StorageError when the folder cannot be used.
    """

    def __init__(self, folder: Path, budget_bytes: int, namespace: str, *, compress: bool = False) -> None:
        if budget_bytes < MIN_BUDGET_BYTES:
            raise StorageError(f"a disk cache of {budget_bytes} bytes is below {MIN_BUDGET_BYTES}")
        self._file = folder / "cache.sqlite"
        self._namespace = namespace
        self._compress = compress
        self._log_bytes = min(MAX_LOG_BYTES, budget_bytes // 4)
        self._batch_entries = min(_MAX_BATCH_ENTRIES, self._log_bytes // (8 * _PAGE))
        self._batch_bytes = min(_MAX_BATCH_BYTES, self._log_bytes // 4)
        self._max_pages = (budget_bytes - self._log_bytes) // _PAGE
        self._note = ""
        self._unsaved_note: str | None = None
        self.num_corrupt = 0
        self.written_bytes = 0
        if reason := why_unusable(folder):
            raise StorageError(f"the cache folder {folder} cannot be used: {reason}")
        self._open()

    def get_many(self, keys: Iterable[SampleKey]) -> dict[SampleKey, Entry]:
        slots = {slot: key for key in keys if (slot := self._slots[key])}
        found: dict[SampleKey, Entry] = {}
        wanted = sorted(slots)
        for at in range(0, len(wanted), _MAX_BATCH_ENTRIES):
            batch = wanted[at : at + _MAX_BATCH_ENTRIES]
            marks = ",".join("?" * len(batch))
            try:
                rows = self._db.execute(f"SELECT slot, data FROM entry WHERE slot IN ({marks})", batch)  # noqa: S608 - question marks alone
                for slot, blob in rows:
                    with contextlib.suppress(FormatError, TypeError):
                        found[slots[slot]] = cache_entry.decode(slots[slot], blob)
            except sqlite3.DatabaseError as error:
                with contextlib.suppress(StorageError):  # whoever writes next tries again, and is told
                    self._recover(error)
                break
        if lost := [key for key in slots.values() if key not in found]:
            self.num_corrupt += len(lost)
            self.delete_many(lost)
        return found

    def put_many(self, entries: Mapping[SampleKey, Entry]) -> dict[SampleKey, int]:
        """In transactions of 128 entries or 256 KiB, whichever comes first; each entry is stored whole or not."""
        self._sweep(len(entries))
        stored: dict[SampleKey, int] = {}
        batch: dict[SampleKey, bytes] = {}
        batch_bytes = 0
        for key, entry in entries.items():
            batch[key] = blob = cache_entry.encode(key, entry, compress=self._compress)
            batch_bytes += len(blob)
            if len(batch) >= self._batch_entries or batch_bytes >= self._batch_bytes:
                stored |= self._put(batch)
                batch, batch_bytes = {}, 0
        return stored | self._put(batch) if batch else stored

    def _put(self, batch: Mapping[SampleKey, bytes]) -> dict[SampleKey, int]:
        """1. Choose slots: those of deleted entries, then new ones; 2. one transaction; 3. update the tables."""
        new = [key for key in batch if not self._slots[key]]
        slots = {key: slot for key in batch if (slot := self._slots[key])}
        num_reused = min(len(new), len(self._free))
        added = range(self._next_slot, self._next_slot + len(new) - num_reused)
        slots |= zip(new, [*self._free[:num_reused], *added], strict=True)
        with self._transaction():
            rows = sorted((slots[key], self._source(key.source), key.offset, key.row, batch[key]) for key in batch)
            self._db.executemany("REPLACE INTO entry VALUES (?, ?, ?, ?, ?)", rows)
            self._write_note()
        del self._free[:num_reused]
        self._next_slot += len(added)
        sizes = {key: _stored_bytes(len(blob)) for key, blob in batch.items()}
        for key, size in sizes.items():
            self._used_bytes += size - self._sizes[key]
            self._slots[key], self._sizes[key] = slots[key], size
        if not _IO.exists():
            self.written_bytes += sum(
                2 * -(-size // _PAGE) * _PAGE for size in sizes.values()
            )  # the log, then the file
        self._measure()
        return sizes

    def _forget(self) -> None:
        """Know of no entry."""
        self._slots, self._sizes = BlockTable(), BlockTable()
        self._free: list[int] = []
        self._sources: dict[str, int] = {}
        self._used_bytes, self._next_slot, self._fill = 0, 1, 1.0
        self._note, self._unsaved_note = "", None

    def _measure(self) -> None:
        """Estimate how well the entries fill their pages: replacing entries by others of different size leaves gaps."""
        pages = self._pragma("page_count") - self._pragma("freelist_count")
        if pages > self._max_pages // 4:
            self._fill = min(1.0, max(0.25, self._used_bytes / (pages * _PAGE)))

    def _sweep(self, num_new: int) -> None:
        """Empty the free slots that the next `num_new` entries do not need; keep the others, in the file's order."""
        self._free.sort()
        while len(self._free) > num_new:
            cut = max(num_new, len(self._free) - self._batch_entries)
            with self._transaction():
                self._db.executemany("DELETE FROM entry WHERE slot = ?", [(slot,) for slot in self._free[cut:]])
                self._write_note()
            del self._free[cut:]

    def delete_many(self, keys: Iterable[SampleKey]) -> None:
        """The next put overwrites or empties their slots; a crash before that may bring the entries back."""
        for key in keys:
            if slot := self._slots[key]:
                self._free.append(slot)
                self._used_bytes -= self._sizes[key]
                self._slots[key] = self._sizes[key] = 0

    def keys(self) -> Iterator[tuple[SampleKey, int]]:
        return self._sizes.items()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @property
    def capacity_bytes(self) -> int:
        return int(self._max_pages * _PAGE * _FILLED * self._fill)

    @property
    def note(self) -> str:
        return self._note

    def set_note(self, note: str) -> None:
        self._note = self._unsaved_note = note

    def close(self) -> None:
        try:
            self._sweep(0)
            if self._unsaved_note is not None:
                with self._transaction():
                    self._write_note()
        except StorageError as error:
            logger().warning("cache.close_failed", err=str(error))
        self._db.close()

    def _open(self) -> None:
        try:
            self._connect()
            self._scan()
        except (sqlite3.DatabaseError, FormatError) as error:
            if _is_busy(error):
                raise StorageError(f"{self._file} is in use by another process") from error
            self._recreate(str(error))

    def _connect(self) -> None:
        """Raises FormatError for a file that is not this cache's, DatabaseError for one that SQLite cannot read."""
        self._forget()
        is_new = not self._file.exists()
        try:
            self._db = sqlite3.connect(self._file, isolation_level=None, timeout=1, check_same_thread=False)
        except sqlite3.Error as error:
            raise StorageError(f"the cache file {self._file} cannot be opened: {error}") from error
        self._is_open = True
        for pragma in (
            f"page_size = {_PAGE}",
            "locking_mode = EXCLUSIVE",  # so that there is no shared memory file, whose mapping could fault
            "journal_mode = WAL",
            "synchronous = OFF",
            f"wal_autocheckpoint = {min(1 << 20, self._log_bytes // 4) // _PAGE}",
            f"journal_size_limit = {self._log_bytes // 2}",
            "cache_size = -512",
            "mmap_size = 0",
            "cell_size_check = ON",
            "trusted_schema = OFF",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        if is_new:
            self._create()
        elif self._pragma("application_id") != _APPLICATION_ID or self._pragma("user_version") != _SCHEMA:
            raise FormatError("the file is not a cache of this version")
        if self._pragma("page_size") != _PAGE or self._pragma("page_count") > self._max_pages:
            raise FormatError("the file is larger than its budget")
        self._db.execute(f"PRAGMA max_page_count = {self._max_pages}")

    def _create(self) -> None:
        with self._transaction():
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {_SCHEMA}")
            self._db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
            self._db.execute("CREATE TABLE source (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
            self._db.execute(
                "CREATE TABLE entry (slot INTEGER PRIMARY KEY, source INTEGER NOT NULL, block INTEGER NOT NULL,"
                " row INTEGER NOT NULL, data BLOB NOT NULL)"
            )
            self._set("namespace", self._namespace)

    def _scan(self) -> None:
        """Index the stored entries. Lengths are in the rows' headers: only the first page of large entries is read."""
        meta = dict(self._db.execute("SELECT name, value FROM meta"))
        if meta.get("namespace") != self._namespace:
            raise FormatError("the entries are of another stream or format")
        self._note = str(meta.get("note", ""))
        names = dict(self._db.execute("SELECT number, name FROM source"))
        self._sources = {name: number for number, name in names.items()}
        for slot, source, block, row, length in self._db.execute(
            "SELECT slot, source, block, row, length(data) FROM entry"
        ):
            self._next_slot = max(self._next_slot, slot + 1)
            if source not in names or not _is_address(slot, block, row, length):
                self.num_corrupt += 1
                continue
            key = SampleKey(names[source], block, row)
            if self._slots[key]:
                self._free.append(slot)  # a crash came between its deletion and its being stored again
                continue
            self._slots[key], self._sizes[key] = slot, _stored_bytes(length)
            self._used_bytes += self._sizes[key]
        self._measure()

    def _recreate(self, reason: str) -> None:
        logger().warning("cache.recreated", reason=reason)
        self._db.close()
        try:
            for file in (
                self._file,
                *(self._file.with_name(self._file.name + end) for end in ("-wal", "-shm", "-journal")),
            ):
                file.unlink(missing_ok=True)
            self._connect()
        except (OSError, sqlite3.DatabaseError, StorageError) as error:
            self._db.close()
            self._forget()
            self._is_open = False
            raise StorageError(f"the cache file {self._file} cannot be created: {error}") from error

    def _recover(self, error: sqlite3.DatabaseError) -> None:
        """Start empty if the file is damaged; not if the disk merely fails, which may be temporary."""
        if _is_damage(error):
            self._start_empty(str(error))

    def _start_empty(self, reason: str) -> None:
        note = self._note
        try:
            self._recreate(reason)
        finally:
            self.set_note(note)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """An atomic transaction; counts the bytes written. Raises DiskFull, StorageError."""
        if not self._is_open:
            self._start_empty("the disk kept it from being created before")
        before = _device_bytes()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
            self._unsaved_note = None
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            self._sources = {}  # a new one may have been rolled back
            if isinstance(error, sqlite3.DatabaseError):
                self._recover(error)
            kind = DiskFull if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" else StorageError
            raise kind(f"the cache file: {error}") from error
        finally:
            self.written_bytes += _device_bytes() - before

    def _source(self, name: str) -> int:
        if name not in self._sources:
            rows = self._db.execute("SELECT name, number FROM source")
            self._sources = dict(rows.fetchall())
        if name not in self._sources:
            self._sources[name] = len(self._sources) + 1
            self._db.execute("INSERT INTO source VALUES (?, ?)", (self._sources[name], name))
        return self._sources[name]

    def _write_note(self) -> None:
        if self._unsaved_note is not None:
            self._set("note", self._unsaved_note)

    def _set(self, name: str, value: str) -> None:
        self._db.execute("REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])


def _stored_bytes(num_blob: int) -> int:
    """An entry's size in the file: its share of a page, or overflow pages after its first part."""
    cell = num_blob + _ROW_BYTES
    if cell <= _MAX_CELL:
        return _PAGE // ((_PAGE - 8) // cell)
    return -(-cell // _PAGE) * _PAGE + _PAGE // 2


def _is_address(slot: object, block: object, row: object, length: object) -> bool:
    """Whether the columns hold numbers as `put_many` writes them; SQLite itself stores any type in any column."""
    numbers = (slot, block, row, length)
    return all(type(number) is int and number >= 0 for number in numbers) and isinstance(row, int) and row < 1 << 16


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "") in {"SQLITE_BUSY", "SQLITE_LOCKED"}


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file's content is damaged. SQLITE_ERROR: no such table, by a damaged schema."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_SCHEMA")) or name in {
        "SQLITE_ERROR", "SQLITE_MISMATCH", "SQLITE_CONSTRAINT_NOTNULL", "SQLITE_IOERR_SHORT_READ",
    }  # fmt: skip


def _device_bytes() -> int:
    """Bytes that this thread caused to be written to a device; 0 where the kernel does not count them."""
    try:
        lines = _IO.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), 0)
