"""An empty archive in a folder of its own."""

from pathlib import Path

import pytest

from edged.adapters.parquet.store import ParquetStore
from tests.support.archive_samples import new_archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def store(folder: Path) -> ParquetStore:
    return new_archive(folder)
