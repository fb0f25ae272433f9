"""What a test needs from its machine: a missing need skips the test with its reason, or fails it if so asked."""

import os
from typing import NoReturn

import pytest


def require(reason: str) -> NoReturn:
    """End the test: `reason` says what is missing. EDGED_REQUIRE=all (the gate's setting) makes that a failure."""
    if os.environ.get("EDGED_REQUIRE") == "all":
        pytest.fail(f"required: {reason}")
    pytest.skip(reason)
