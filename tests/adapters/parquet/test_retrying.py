"""A storage that refuses all is retried, and what one source meets is that source's alone; both are reported."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.parquet.retrying import RetryingArchive
from edged.aio import Backoff
from edged.domain.archive.retention import Deleted, Limits, Step
from edged.errors import ArchiveConflict, ArchiveFull, ArchiveUnavailable, EdgedError, SourceRefused, StorageError
from edged.ports import SourceEnd
from tests.support.archive_samples import pack


class Refusing(MemoryArchive):
    """Raises the failures given, one a call, then works."""

    def __init__(self, *failures: EdgedError) -> None:
        super().__init__()
        self._refusals: Iterator[EdgedError] = iter(failures)

    def _check(self, stream: str = "", source: str = "") -> None:
        if failure := next(self._refusals, None):
            raise failure


def patient(store: MemoryArchive, health: RecordingHealth | None = None) -> RetryingArchive:
    return RetryingArchive(store, health or RecordingHealth(), lambda _: Backoff(0.001, 0.001))


async def test_appending_is_retried_until_the_storage_accepts_it():
    store, health = Refusing(ArchiveFull("no space"), ArchiveUnavailable("reset")), RecordingHealth()
    archive = patient(store, health)

    await archive.append("fashion", "pi-a", [(0, pack(0))])

    assert store.blocks("fashion", "pi-a") == {0: pack(0)}
    assert health.history == [("degraded", "archive"), ("recovered", "archive")]
    assert archive.tries == 3


class Making:
    """A store whose oldest files make room so often."""

    def __init__(self, times: int, failure: EdgedError | None = None) -> None:
        self.times = times
        self.failure = failure
        self.asked: list[int] = []

    def retain(self, stream: str, limits: Limits, is_ours: Callable[[str], bool]) -> Iterator[Step]:
        raise NotImplementedError

    def reserve(self) -> None:
        raise NotImplementedError

    def make_room(self, num_bytes: int) -> Iterator[Step]:
        self.asked.append(num_bytes)
        if self.failure:
            raise self.failure
        if len(self.asked) <= self.times:
            yield Deleted("fashion", "pi-a", 4, 4, num_bytes)


async def test_where_the_oldest_may_go_a_full_disk_holds_nothing_up():
    store, health, making = Refusing(ArchiveFull("no space"), ArchiveFull("no space")), RecordingHealth(), Making(2)
    archive = RetryingArchive(store, health, lambda _: Backoff(60, 60), retained=making, room_bytes=100)

    await archive.append("fashion", "pi-a", [(0, pack(0))])

    assert making.asked == [100, 100]
    assert health.history == []


@pytest.mark.parametrize("failure", [None, ArchiveFull("no space"), StorageError("no right to")])
async def test_where_nothing_more_may_go_it_is_told_and_tried_again(failure):
    store, health, making = Refusing(ArchiveFull("no space")), RecordingHealth(), Making(0, failure)
    archive = RetryingArchive(store, health, lambda _: Backoff(0.001, 0.001), retained=making, room_bytes=100)

    await archive.append("fashion", "pi-a", [(0, pack(0))])

    assert health.history == [("degraded", "archive"), ("recovered", "archive")]


async def test_only_a_full_disk_takes_the_oldest():
    making = Making(1)
    store = Refusing(ArchiveUnavailable("reset"))
    archive = RetryingArchive(store, RecordingHealth(), lambda _: Backoff(0.001, 0.001), retained=making)
    await archive.append("fashion", "pi-a", [(0, pack(0))])
    assert making.asked == []


async def test_resuming_gives_the_end_and_the_cursors():
    store = MemoryArchive()
    assert await patient(store).resume("fashion", "pi-a") == SourceEnd(0, {}, 0)
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])

    assert await patient(store).resume("fashion", "pi-a") == SourceEnd(2, {"cam-01/0": 8}, 2)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (StorageError("denied"), "denied"),
        (OverflowError("too large"), "OverflowError: too large"),
        (ArchiveConflict("continues at offset 2"), "continues at offset 2"),
    ],
)
async def test_what_one_source_meets_is_its_own_and_not_retried_here(log_lines, failure, reason):
    store, health = MemoryArchive(failures={("fashion", "pi-a"): failure}), RecordingHealth()
    archive = patient(store, health)

    for act in (archive.append("fashion", "pi-a", [(0, pack(0))]), archive.resume("fashion", "pi-a")):
        with pytest.raises(SourceRefused, match=reason) as refused:
            await act
        assert refused.value.retry_s > 0
    await archive.append("fashion", "pi-b", [(0, pack(0))])

    assert health.reasons == {"archive/fashion/pi-a": reason}
    assert bool(log_lines("archive.source_failed")) == isinstance(failure, OverflowError)
    store.failures.clear()
    await archive.resume("fashion", "pi-a")
    assert bool(health.reasons) != isinstance(failure, ArchiveConflict)  # it reads as before, and may write no better
    await archive.append("fashion", "pi-a", [(0, pack(0))])
    assert health.reasons == {}


async def test_a_source_with_a_record_that_was_refused_is_reported_until_its_next_append():
    health = RecordingHealth()
    archive = patient(MemoryArchive(), health)
    archive.refuse("fashion", "pi-a", "of another edge")

    await archive.resume("fashion", "pi-a")
    await archive.append("fashion", "pi-b", [(0, pack(0))])
    assert health.reasons == {"archive/fashion/pi-a": "of another edge"}
    await archive.append("fashion", "pi-a", [(0, pack(0))])
    assert health.reasons == {}


async def test_a_source_that_is_refused_again_and_again_is_tried_less_and_less_often():
    store = MemoryArchive(failures={("fashion", "pi-a"): StorageError("denied")})
    archive = RetryingArchive(store, RecordingHealth(), lambda max_s: Backoff(1.0, max_s, seed=0))

    pauses = []
    for _ in range(12):
        with pytest.raises(SourceRefused) as refused:
            await archive.resume("fashion", "pi-a")
        pauses.append(refused.value.retry_s)

    assert pauses[0] <= 1.0
    assert all(30.0 <= pause <= 60.0 for pause in pauses[-4:])


async def test_a_cancellation_ends_the_retries():
    health = RecordingHealth()
    archive = RetryingArchive(MemoryArchive(failure=ArchiveFull("no space")), health, lambda _: Backoff(60.0, 60.0))
    task = asyncio.create_task(archive.append("fashion", "pi-a", [(0, pack(0))]))
    while not health.reasons:  # noqa: ASYNC110 - the fake has no event
        await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert health.reasons == {"archive": "no space"}
