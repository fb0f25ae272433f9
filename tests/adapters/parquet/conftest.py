"""An empty archive in a folder of its own, and a clock."""

from pathlib import Path

import pytest

from edged.adapters.parquet.store import ParquetStore
from tests.support.archive_clock import Clock
from tests.support.archive_samples import new_archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def store(folder: Path) -> ParquetStore:
    return new_archive(folder)


@pytest.fixture
def clock() -> Clock:
    return Clock()
