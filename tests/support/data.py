"""Finds test data that is too large for the repository."""

import os
from pathlib import Path

from tests.support.requirements import require

_DEFAULT_BIRDS = Path(__file__).parents[3] / "shared" / "data" / "birds"


def birds() -> Path:
    """The folder of bird photographs (train/ and test/, a folder per species); without it the test is skipped."""
    folder = Path(os.environ.get("EDGED_BIRDS", _DEFAULT_BIRDS))
    if not folder.is_dir():
        require(f"no bird photographs at {folder}; set EDGED_BIRDS")
    return folder
