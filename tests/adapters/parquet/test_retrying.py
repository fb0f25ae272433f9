"""A storage that refuses is retried, and reported as degraded."""

import asyncio
from collections.abc import Iterator

import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.parquet.retrying import RetryingArchive
from edged.aio import Backoff
from edged.errors import ArchiveConflict, ArchiveUnavailable, DiskFull, EdgedError, StorageError
from tests.support.archive_samples import pack


class Refusing(MemoryArchive):
    """Raises the failures given, one a call, then works."""

    def __init__(self, *failures: EdgedError) -> None:
        super().__init__()
        self.failures: Iterator[EdgedError] = iter(failures)

    def _check(self) -> None:
        if failure := next(self.failures, None):
            raise failure


def patient(store: MemoryArchive, health: RecordingHealth | None = None) -> RetryingArchive:
    return RetryingArchive(store, health or RecordingHealth(), Backoff(0.001, 0.001))


async def test_appending_is_retried_until_the_storage_accepts_it():
    store, health = (
        Refusing(DiskFull("no space"), ArchiveUnavailable("reset"), StorageError("denied")),
        RecordingHealth(),
    )
    archive = patient(store, health)

    await archive.append("fashion", "pi-a", [(0, pack(0))])

    assert store.blocks("fashion", "pi-a") == {0: pack(0)}
    assert health.history == [("degraded", "archive"), ("recovered", "archive")]
    assert archive.tries == 4


async def test_resuming_gives_the_end_and_the_cursors():
    store = MemoryArchive()
    assert await patient(store).resume("fashion", "pi-a") == (0, {})
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])

    assert await patient(store).resume("fashion", "pi-a") == (2, {"cam-01/0": 8})


async def test_a_conflict_is_not_retried():
    store, health = MemoryArchive(), RecordingHealth()
    store.append("fashion", "pi-a", [(0, pack(0))])

    with pytest.raises(ArchiveConflict):
        await patient(store, health).append("fashion", "pi-a", [(7, pack(4))])

    assert health.history == []


async def test_a_cancellation_ends_the_retries():
    health = RecordingHealth()
    archive = RetryingArchive(MemoryArchive(failure=DiskFull("no space")), health, Backoff(60.0, 60.0))
    task = asyncio.create_task(archive.append("fashion", "pi-a", [(0, pack(0))]))
    while not health.reasons:  # noqa: ASYNC110 - the fake has no event
        await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert health.reasons == {"archive": "no space"}
