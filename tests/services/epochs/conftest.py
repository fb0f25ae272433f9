"""The world of these tests, and the disk of its cache."""

from pathlib import Path

import pytest

from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.adapters.memory.disk_tier import MemoryDiskTier
from tests.support.cached_world import Tier
from tests.support.training_world import (
    World,
)


@pytest.fixture
def world(log_lines) -> World:  # which puts logging back in the end
    return World()


@pytest.fixture(params=["memory", "memory and a fake disk", "memory and SQLite"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Tier:
    """A process's disk by the name of its site: the next process finds what one left."""
    kept: dict[str, MemoryDiskTier] = {}
    of_kind: dict[str, Tier] = {
        "memory": lambda _: None,
        "memory and a fake disk": lambda site: kept.setdefault(site, MemoryDiskTier()),
        "memory and SQLite": lambda site: SqliteCache(tmp_path / site, 1 << 20, "test"),
    }
    return of_kind[request.param]
