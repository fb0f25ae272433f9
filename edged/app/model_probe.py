"""The child process in which the companion has a model file run before it serves: see `adapters.tflite.probe`.

It has the compiled kernels, too, for where they serve.
"""

import os
import sys
from typing import TYPE_CHECKING

from edged.adapters.tflite import probe
from edged.errors import KernelsUnavailable

if TYPE_CHECKING:
    from edged.adapters.kernels.backend import CompiledBackend


def kernels() -> "CompiledBackend":
    """The compiled ones; without them the process ends, and another time they may be here as they are in its parent."""
    from edged.adapters.kernels.backend import compiled  # noqa: PLC0415 - imports much that TFLite does not need

    try:
        return compiled()
    except KernelsUnavailable as error:
        print(error, file=sys.stderr)  # noqa: T201 - read by the parent
        sys.exit(os.EX_TEMPFAIL)


if __name__ == "__main__":
    probe.run(kernels)
