"""Runs .tflite files: with tflite-runtime or its successor LiteRT where they work, else with numpy.

A runtime built for another CPU crashes the process with an illegal instruction. So it is tested once in a child process
before it is imported here. See also: `interpreter` (running a file), `proof` (whether a file may be run),
`services.inference` (which model to run, and when).
"""

import contextlib
import errno
import functools
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.adapters.tflite.interpreter import MAX_BATCH, TfliteClassifier, TfliteFeatures, interpreter_class
from edged.adapters.tflite.proof import Probe
from edged.adapters.tflite.reader import read_tflite
from edged.adapters.tflite.writer import to_tflite
from edged.domain.nn.backend import Backend
from edged.domain.nn.layers import make_layers
from edged.domain.nn.loss import softmax
from edged.domain.nn.model import Model
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, shapes
from edged.errors import FormatError, NotProven
from edged.log import logger
from edged.ports import FeatureExtractor

_SHORT_OF = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs the models: name, version, delegate ("xnnpack" or "none"), and `problem`: why not a faster one."""

    name: str
    version: str
    delegate: str = "none"
    problem: str = ""


class NumpyFeatures:
    """One of edged's own .tflite files with outputs of any shape, run by numpy: a `ports.FeatureExtractor`.

    `backend`: computes the layers that it can instead.
    """

    def __init__(self, content: bytes, backend: Backend | None = None) -> None:
        read = read_tflite(content)
        self._params, self.sample_shape = read.params, read.sample_shape
        self._output_shape = shapes(read.sample_shape, read.layers)[-1]
        layers = [*read.layers, Flatten()]
        self._layers = make_layers(read.sample_shape, layers, micro_batch=MAX_BATCH, dtype=np.float32, backend=backend)
        for layer in self._layers:
            layer.begin(read.params)

    def features(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        result = np.empty((len(x), *self._output_shape), np.float32)
        for start in range(0, len(x), MAX_BATCH):
            y = x[start : start + MAX_BATCH]
            for layer in self._layers:
                y = layer.forward(self._params, y)
            result[start : start + len(y)] = y.reshape(len(y), *self._output_shape)
        return result


class NumpyClassifier:
    """One of edged's own .tflite files, run by numpy: slower, and safe with any content (FormatError).

    `backend`: computes the layers that it can instead.
    """

    def __init__(self, content: bytes, backend: Backend | None = None) -> None:
        read = read_tflite(content)
        if read.labels is None:
            raise FormatError("not a classifier")
        self._params, self._sample_shape = read.params, read.sample_shape
        self._model = Model(read.sample_shape, read.layers, backend=backend)

    def predict(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See ports.Classifier. Raises ValueError for another sample shape."""
        if x.shape[1:] != self._sample_shape:
            raise ValueError(f"samples of shape {x.shape[1:]} for a model of {self._sample_shape}")
        return softmax(self._model.logits(self._params, x))


def load_features(content: bytes, num_threads: int = 1) -> FeatureExtractor:
    """The feature extractor in `content`, which this process has written, run by the tested runtime."""
    if prepare_runtime().name == "numpy":
        return NumpyFeatures(content)
    return TfliteFeatures(content, num_threads)


def load_foreign_features(content: bytes, num_threads: int = 1) -> FeatureExtractor:
    """As `load_features`, for a file that edged did not write; it is run in a child process first, at each call.

    Raises FormatError when no TFLite runtime works here or can run the file.
    """
    runtime = prepare_runtime()
    if runtime.name == "numpy":
        raise FormatError(f"only a TFLite runtime can run it, and none works here: {runtime.problem}")
    Probe().run("features", content)
    return TfliteFeatures(content, num_threads)


@functools.cache
def prepare_runtime() -> Runtime:
    """Determine what can run models here, and log it: once per process, within a second, or seconds on a Pi.

    Call it before other threads write to stderr: on its first run the runtime prints its delegate there, not in the
    log's format, which is suppressed by silencing the process's stderr meanwhile. Raises as `probe_runtime`.
    """
    runtime = probe_runtime()
    fields = {"runtime": runtime.name, "version": runtime.version, "delegate": runtime.delegate}
    if runtime.name == "numpy":
        logger().warning("infer.runtime", **fields, problem=runtime.problem)
    else:
        with _silent_stderr():
            check_runtime()
        logger().info("infer.runtime", **fields)
    return runtime


def probe_runtime() -> Runtime:
    """Run a small model in a child process. The numpy runtime, with the problem, when the child fails.

    Raises NotProven when no child could be started for want of memory or processes, or it was killed for that: numpy
    would serve for as long as this process lives, and the next one may find better.
    """
    try:
        stdout, stderr = Probe().run("tflite")
        tested = json.loads(stdout)
        return Runtime(tested["name"], tested["version"], "xnnpack" if "XNNPACK" in stderr else "none")
    except FormatError as error:
        if isinstance(error, NotProven) and _is_passing(error.__cause__):
            raise
        return _numpy(str(error))
    except (ValueError, LookupError, TypeError) as error:
        return _numpy(f"unexpected output of the probe: {error}")


def _is_passing(cause: BaseException | None) -> bool:
    """Whether a trial that failed so may succeed soon. Without a cause it was killed."""
    return cause is None or (isinstance(cause, OSError) and cause.errno in _SHORT_OF)


def check_runtime() -> tuple[str, str]:
    """Run a small model in this process and compare with numpy. Returns the runtime's name and version.

    Raises whatever a broken runtime raises, if it does not crash the process.
    """
    shape, labels = (8, 8, 1), ("no", "yes")
    layers: list[LayerSpec] = [Conv2d(4, (3, 3), activation="relu"), MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(2)]
    content = to_tflite(shape, layers, initial_params(shape, layers, seed=0), labels=labels)
    x = np.linspace(0, 1, 3 * 64, dtype=np.float32).reshape(3, *shape)
    result = TfliteClassifier(content).predict(x)
    if not np.allclose(result, NumpyClassifier(content).predict(x), atol=1e-4):
        raise ArithmeticError("the TFLite runtime computes something else than numpy")
    package = interpreter_class().__module__.partition(".")[0].replace("_", "-")
    return package, importlib.metadata.version(package)


def _numpy(problem: str) -> Runtime:
    return Runtime("numpy", np.__version__, problem=problem)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what this process's C++ or Python code writes to stderr."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a descriptor is needed
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
