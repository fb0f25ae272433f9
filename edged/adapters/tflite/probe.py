"""The child process in which `proof` tests the TFLite runtime, or runs the model file that stdin holds.

Its arguments: what runs the file (a `proof.Runner`), and the bytes and the seconds of CPU time that it may take. It
crashes, or says on stderr what is wrong, where the process that asks would have. Without a file it prints the runtime's
name and version.
"""

import contextlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edged.adapters.tflite.interpreter import MAX_BATCH, Interpreter
from edged.domain.nn.backend import Backend
from edged.errors import FormatError

_ATOL = _RTOL = 1e-3
_CPU_GRACE_S = 5


def limit(memory_bytes: int, cpu_s: int) -> None:
    """Bound what this process may take from here on. Where memory runs out, the kernel ends it before any other."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    held_bytes = int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_DATA, (held_bytes + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + _CPU_GRACE_S))  # first a signal that names the reason
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_by_tflite(content: bytes, *, compare: bool) -> None:
    """Compute the outputs of a few samples, one by one and as a part of a full batch.

    Raises FormatError when the file cannot be run, or, with `compare`, when a sample's outputs depend on the others.
    """
    single = Interpreter(content, 1)
    x = np.random.default_rng(0).random((MAX_BATCH, *single.sample_shape), np.float32)
    singly = np.concatenate([single.run(x[i : i + 1]) for i in range(3)])
    if single.takes_batches:
        batched = Interpreter(content, MAX_BATCH).run(x)[: len(singly)]
        if compare and not np.allclose(batched, singly, _RTOL, _ATOL):
            raise FormatError("a sample's outputs depend on the other samples of a batch")


def run_by_numpy(content: bytes, backend: Backend | None = None) -> None:
    """Compute the outputs of a full batch, by `backend` what that can. Raises FormatError for others' files."""
    from edged.adapters.tflite.runtime import NumpyFeatures  # noqa: PLC0415 - imports much that TFLite does not need

    model = NumpyFeatures(content, backend)
    model.features(np.random.default_rng(0).random((MAX_BATCH, *model.sample_shape), np.float32))


def no_kernels() -> Backend:
    """Of a process that has none. Raises FormatError."""
    raise FormatError("this process has no kernels")


def run(kernels: Callable[[], Backend] = no_kernels) -> None:
    """What the arguments ask for; why a file cannot be run are the process's last words.

    `kernels`: those that the runner "kernels" runs it by.
    """
    try:
        _run(kernels)
    except FormatError as refused:
        sys.exit(str(refused).replace("\n", " "))


def _run(kernels: Callable[[], Backend]) -> None:
    runner, memory_bytes, cpu_s = sys.argv[1:]
    backend = kernels() if runner == "kernels" else None
    if sys.platform == "linux":
        limit(int(memory_bytes), int(cpu_s))
    content = sys.stdin.buffer.read()
    if not content:
        from edged.adapters.tflite.runtime import check_runtime  # noqa: PLC0415 - as above

        name, version = check_runtime()
        sys.stdout.write(json.dumps({"name": name, "version": version}))
    elif runner in ("numpy", "kernels"):
        run_by_numpy(content, backend)
    else:
        run_by_tflite(content, compare=runner == "features")


if __name__ == "__main__":
    run()
