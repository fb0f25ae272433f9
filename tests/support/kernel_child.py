"""Runs a library of kernels over many geometries, in memory where a step beyond ends the process.

`python -m tests.support.kernel_child LIBRARY after|before|tight GEOMETRIES SEED` prints the digest of all results.
Every array that C gets ends exactly where a page without access begins (after), begins where one ends (before), or is
an allocation of just its size, as a sanitizer wants it (tight). The seed decides which geometries are drawn; the last
one on standard error is the one it died of.
"""

import ctypes
import faulthandler
import hashlib
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from edged.adapters.kernels.backend import CompiledBackend
from edged.adapters.kernels.memory import AlignedBuffer, Tables
from edged.adapters.kernels.self_test import DIGEST, digest_of
from edged.domain.nn.buffer import Array
from edged.domain.nn.model import Model
from edged.domain.nn.optimizer_steps import AdaptiveMoments, Momentum
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import Dense, Flatten
from tests.support.kernel_builds import backend_of
from tests.support.kernel_geometries import BEFORE, MICRO_BATCH, layers_of, models, output_of

_PAGE, _NO_ACCESS = mmap.PAGESIZE, 0
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _Memory:
    """Where arrays are placed."""

    def __init__(self, place: str) -> None:
        self._place = place

    def empty(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        if self._place == "tight" or not num_bytes:
            return np.zeros(num_bytes, np.uint8)
        body = -(-num_bytes // _PAGE) * _PAGE
        pages = np.frombuffer(mmap.mmap(-1, body + 2 * _PAGE), np.uint8)
        for guard in (0, body + _PAGE):
            if _mprotect(pages.ctypes.data + guard, _PAGE, _NO_ACCESS):
                raise OSError(ctypes.get_errno(), "mprotect")
        start = _PAGE + (body - num_bytes if self._place == "after" else 0)
        return pages[start : start + num_bytes]

    def copy(self, array: Array) -> Array:
        placed: Array = self.empty(array.nbytes).view(array.dtype).reshape(array.shape)
        placed[...] = array
        return placed

    def take_over(self) -> None:
        """Place also what the layers own: their buffers and tables."""
        add, add_structs, memory = Tables.add, Tables.add_structs, self

        def init_buffer(buffer: AlignedBuffer, size: int, dtype: npt.DTypeLike = np.float32) -> None:
            buffer._flat = memory.empty(size * np.dtype(dtype).itemsize).view(dtype)
            buffer.address = buffer._flat.ctypes.data if size else None

        def add_table(tables: Tables, offsets: npt.ArrayLike) -> int:
            add(tables, offsets)
            tables._kept[-1] = memory.copy(tables._kept[-1])
            return int(tables._kept[-1].ctypes.data)

        def add_array(tables: Tables, structs: list[ctypes.Structure], kind: type[ctypes.Structure]) -> int:
            add_structs(tables, structs, kind)
            array = tables._kept[-1]
            placed: Any = type(array).from_buffer(memory.copy(np.frombuffer(array, np.uint8)))
            tables._kept[-1] = placed
            return ctypes.addressof(placed)

        for owner, name, method in (
            (AlignedBuffer, "__init__", init_buffer),
            (Tables, "add", add_table),
            (Tables, "add_structs", add_array),
        ):
            setattr(owner, name, method)


def main(library: str, place: str, count: str, draws: str) -> None:
    faulthandler.enable()
    memory, backend, sha = _Memory(place), backend_of(Path(library)), hashlib.sha256()
    memory.take_over()
    assert digest_of(backend) == DIGEST

    def use(*arrays: Array) -> None:
        for array in arrays:
            sha.update(array.tobytes())

    def many(test: Any) -> Any:
        limits = settings(
            max_examples=int(count), deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        return seeded(int(draws))(limits(test))

    @many
    @given(model=models, is_first=st.booleans(), is_strided=st.booleans(), seed=st.integers(0, 2**32 - 1))
    def compute(*, model: Any, is_first: bool, is_strided: bool, seed: int) -> None:
        sys.stderr.write(f"{model} {is_first=} {is_strided=} {seed=}\n")
        shape, specs = model
        rng = np.random.default_rng(seed)
        before = () if is_first else (BEFORE,)
        (layer,) = layers_of(shape, specs, np.float32, backend, before=before)
        params = {name: memory.copy(value) for name, value in initial_params(shape, [*before, *specs], seed).items()}
        grads = {name: memory.copy(np.zeros_like(value)) for name, value in params.items()}
        layer.begin(params)
        for n in (MICRO_BATCH, 1, 2):
            x = rng.standard_normal((n, *shape), np.float32) * 3
            dy = rng.standard_normal((n, *output_of(shape, specs)), np.float32)
            x, dy = (np.repeat(a, 2, -1)[..., ::2] if is_strided else memory.copy(a) for a in (x, dy))
            use(layer.forward(params, x))
            if params:
                dx = layer.backward(params, dy, grads)
                use(*([] if dx is None else [dx]))
        layer.end(grads)
        use(*grads.values())

    compute()
    _compute_others(backend, memory, use, many)
    sys.stdout.write(sha.hexdigest())


def _compute_others(
    backend: CompiledBackend, memory: _Memory, use: Callable[..., None], many: Callable[[Any], Any]
) -> None:
    """What is no layer: the loss, a lane in one call, the optimizers."""
    loss = backend.loss("cross_entropy", np.float32)
    assert loss is not None

    @many
    @given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 2**32 - 1))
    def compute_loss(n: int, classes: int, seed: int) -> None:
        sys.stderr.write(f"the loss: {n=} {classes=} {seed=}\n")
        rng = np.random.default_rng(seed)
        outputs = memory.copy(rng.standard_normal((n, classes), np.float32) * 9)
        targets = memory.copy(rng.integers(0, classes, n))
        scale, losses, scores = (memory.copy(rng.random((n, *more), np.float32)) for more in ((1,), (), ()))
        gradient, _ = loss(outputs, targets, scale, losses, scores)
        use(gradient, losses, scores)

    @many
    @given(model=models, n=st.integers(1, 8), classes=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
    def compute_lane(model: Any, n: int, classes: int, seed: int) -> None:
        sys.stderr.write(f"a lane: {model} {n=} {classes=} {seed=}\n")
        rng, (shape, specs) = np.random.default_rng(seed), model
        whole = Model(shape, [*specs, Flatten(), Dense(classes)], micro_batch=MICRO_BATCH, backend=backend)
        x = memory.copy(rng.standard_normal((n, *shape), np.float32))
        result = whole.gradient(whole.initial(seed), x, memory.copy(rng.integers(0, classes, n)))
        use(*result.grads.values(), result.losses, result.scores)

    @many
    @given(n=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
    def compute_steps(n: int, seed: int) -> None:
        sys.stderr.write(f"an optimizer: {n=} {seed=}\n")
        rng = np.random.default_rng(seed)
        param, mean, variance, grad = (memory.copy(rng.random(n, np.float32)) for _ in range(4))
        backend.steps.momentum(param, mean, grad, Momentum(0.1, 2.0, 0.9, 0.1, bool(seed % 2)))
        backend.steps.adam(param, mean, variance, grad, AdaptiveMoments(1, 0.9, 0.1, 0.9, 0.1, 0.1, 1e-3, 0.1))
        use(param, mean, variance)

    compute_loss()
    compute_steps()
    compute_lane()


if __name__ == "__main__":
    main(*sys.argv[1:])
