"""Chooses what computes layers in this process: the compiled kernels where they can be used, else numpy."""

from functools import cache

from edged.adapters.kernels.backend import CompiledBackend, compiled
from edged.domain.nn.backend import NUMPY
from edged.errors import KernelsUnavailable
from edged.log import logger


@cache
def fastest_backend() -> CompiledBackend | None:
    """The compiled kernels; None where numpy computes. Logs which, once per process. Blocks for some milliseconds."""
    try:
        backend = compiled()
    except KernelsUnavailable as error:
        logger().warning("kernels.unavailable", backend=NUMPY, reason=str(error))
        return None
    for reason in backend.left_out:
        logger().warning("kernels.left_out", reason=reason)
    logger().info("kernels.loaded", backend=backend.name, instructions=backend.instructions)
    return backend
