"""Appends to an archive and kills itself with SIGKILL at the n-th system call.

Arguments: the archive's folder, and n, counted among the calls that make a file durable.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from edged.adapters.parquet.store import ParquetStore
from tests.support.archive_samples import pack


def main(folder: str, fatal_call: int) -> None:
    store = ParquetStore(f"file://{folder}")
    calls = 0

    def fatal(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal_call:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            calls += 1
            if calls == fatal_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    os.fsync = fatal(os.fsync)
    Path.rename = fatal(Path.rename)  # type: ignore[method-assign]
    Path.mkdir = fatal(Path.mkdir)  # type: ignore[method-assign]
    Path.open = fatal(Path.open)  # type: ignore[method-assign]
    store.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])
    store.append("fashion", "pi-b", [(0, pack(0))])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
