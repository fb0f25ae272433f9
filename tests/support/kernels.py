"""The compiled kernels, for tests that need them."""

from edged.adapters.kernels.backend import compiled
from edged.domain.nn.backend import Backend
from edged.errors import KernelsUnavailable
from tests.support.requirements import require


def required_kernels() -> Backend:
    """Those of this machine; ends the test where they are not built."""
    try:
        return compiled()
    except KernelsUnavailable as reason:
        require(f"compiled kernels: {reason}")
