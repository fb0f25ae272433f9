"""What a test needs from outside, and what happens without it."""

import os
from typing import NoReturn

import pytest


def require(reason: str) -> NoReturn:
    """Something is missing: skip the test with the reason, or fail it where everything must be there."""
    if os.environ.get("EDGED_REQUIRE") == "all":
        pytest.fail(reason)
    pytest.skip(reason)
