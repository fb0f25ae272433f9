"""Where the test data lies that is too large for the project."""

import os
from pathlib import Path

from tests.support.requirements import require

_BESIDE_THE_REPOSITORY = Path(__file__).parents[3] / "shared" / "data" / "birds"


def birds() -> Path:
    """The folder of bird photographs (train/ and test/, a folder for each species); skips the test without it."""
    folder = Path(os.environ.get("EDGED_BIRDS", _BESIDE_THE_REPOSITORY))
    if not folder.is_dir():
        require(f"no bird photographs at {folder}; set EDGED_BIRDS")
    return folder
