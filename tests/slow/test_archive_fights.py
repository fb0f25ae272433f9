"""Two processes that fight for one source of an archive, on each kind of place: every block is there once."""

import contextlib
import random
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from edged.adapters.hdfs import hdfs_store
from edged.domain.archive.segment_index import MAX_TAIL
from edged.domain.topology import HdfsAccess, S3Access
from tests.support.archive_fighter import SOURCE, opened, place
from tests.support.archive_samples import pack, read_packs
from tests.support.object_stores import until_it_works
from tests.support.s3 import ACCESS_KEY, BUCKET, REGION, SECRET_KEY

FIGHTS = 100
NEVER = 0
"""Of the steps at which a writer meets its signal."""


class Fighter:
    """A writer's process, see `tests.support.archive_fighter`. A context manager."""

    def __init__(self, name: str, where: str) -> None:
        self._arguments = [sys.executable, "-m", "tests.support.archive_fighter", name, where]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert self.answer() == "ready"

    def start_again(self) -> None:
        """It was killed."""
        self._process.communicate()
        assert self._process.returncode == -signal.SIGKILL
        self.start()

    def go_on(self) -> None:
        """It was stopped."""
        self._process.send_signal(signal.SIGCONT)

    def append(self, length: int, step: int = NEVER, number: int = signal.SIGKILL) -> None:
        self._ask(f"append {length} {step} {number:d}")

    def look(self) -> None:
        """Learn where the archive ends: the last of its files may be written again by who does not know it."""
        self._ask("look")
        assert self.answer() == "ready"

    def compact(self) -> None:
        self._ask("compact")
        assert self.answer() == "packed"

    def answer(self) -> str:
        """The first word of it; "" of who was killed."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().partition(" ")[0].strip()

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


@pytest.fixture(params=["local", "versitygw", "hdfs"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty archive."""
    if request.param == "local":
        where = place((tmp_path / "archive").as_uri())
    elif request.param == "hdfs":
        url = f"hdfs://127.0.0.1:{request.getfixturevalue('hdfs').port}/{uuid.uuid4().hex}"
        until_it_works(hdfs_store(url, HdfsAccess(), "tests").create)
        where = place(url)
    else:
        endpoint = f"http://127.0.0.1:{request.getfixturevalue('versitygw').port}"
        where = place(f"s3://{BUCKET}/{uuid.uuid4().hex}", S3Access(endpoint, REGION, ACCESS_KEY, SECRET_KEY))
    until_it_works(lambda: opened(where, "tests").create("lab"))
    return where


def at_once(one: Fighter, other: Fighter, rng: random.Random) -> str:
    """Both write, in files of other lengths."""
    lengths = rng.sample((1, 2, 3), 2)
    for fighter, length in zip((one, other), lengths, strict=True):
        fighter.append(length)
    assert sorted([one.answer(), other.answer()]) == ["lost", "won"]
    return "at once"


def killed(one: Fighter, other: Fighter, rng: random.Random) -> str:
    """Both write, and one is killed in the middle of it."""
    one.append(2, rng.randint(1, 4))
    other.append(3)
    other.answer()
    if one.answer():
        return "at once"
    one.start_again()
    return "killed"


def stopped(one: Fighter, other: Fighter, rng: random.Random) -> str:
    """One stands still in the middle of it, while the other writes files, or indexes too, and may pack them."""
    has_published = rng.random() < 0.5
    one.append(2, 2 if has_published else 1, signal.SIGSTOP)
    if one.answer() != "stops":
        return "at once"
    is_packed = rng.random() < 0.5  # with all that an index names: the name of its own file is free again
    for _ in range(MAX_TAIL + 2 if is_packed else 2):
        other.append(1)
        other.answer()
    if is_packed:
        other.compact()
    one.go_on()
    assert one.answer() in ({"won", "lost"} if has_published else {"lost"})
    one.look()
    return "stopped"


@contextlib.contextmanager
def fighters(where: str) -> Iterator[list[Fighter]]:
    with Fighter("arc-1", where) as one, Fighter("arc-2", where) as other:
        yield [one, other]


def test_a_hundred_fights_lose_and_double_nothing(where):
    rng = random.Random(16)  # noqa: S311 - picks moments, guards nothing
    came: Counter[str] = Counter()
    with fighters(where) as both:
        for _ in range(FIGHTS):
            one, other = rng.sample(both, 2)
            came[rng.choice((at_once, at_once, killed, stopped))(one, other, rng)] += 1

    assert set(came) == {"at once", "killed", "stopped"}, came
    for writer in ("arc-1", "arc-2"):
        opened(where, writer).remove_leftovers(*SOURCE)  # as their next processes would
    archive = opened(where, "tests")
    end = until_it_works(lambda: archive.end(*SOURCE))
    assert end.next_offset > FIGHTS
    assert end.cursors == {"cam-01/0": 4 * end.next_offset}
    assert archive.snapshot("fashion").offset.tolist() == list(range(end.next_offset))
    assert read_packs(archive, *range(end.next_offset)) == [pack(4 * offset) for offset in range(end.next_offset)]
    assert {finding.kind for finding in archive.verify()} <= {"ignored"}
