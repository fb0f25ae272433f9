"""Runs .tflite files: with tflite-runtime or its successor LiteRT where they work, else with numpy.

A runtime built for another CPU crashes the process with an illegal instruction. So it is tested once in a child process
before it is imported here. See also: `services.inference` (which model to run, and when).
"""

import contextlib
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.adapters.tflite.reader import read_tflite
from edged.adapters.tflite.writer import to_tflite
from edged.domain.nn.layers import begin, make_layers
from edged.domain.nn.loss import softmax
from edged.domain.nn.model import Model
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, shapes
from edged.errors import FormatError
from edged.log import logger
from edged.ports import Classifier, FeatureExtractor

_PROBE_TIMEOUT_S = 120.0
"""Covers a Python start and an import from a cold memory card; a slower runtime counts as broken."""

_MAX_BATCH = 32
"""Samples per run of the interpreter; limits the memory of activations."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs the models: name, version, delegate ("xnnpack" or "none"), and `problem`: why not a faster one."""

    name: str
    version: str
    delegate: str = "none"
    problem: str = ""


class TfliteClassifier:
    """A .tflite file in a TFLite runtime. One call at a time.

    Only for content of verified origin, e.g. by its SHA-256: TFLite trusts the numbers in a file, and altered ones can
    crash the process. Damage that TFLite does detect raises FormatError.
    """

    def __init__(self, content: bytes, num_threads: int = 1) -> None:
        self._content, self._num_threads = content, num_threads
        self._interpreters: dict[int, _Interpreter] = {}
        smallest = self._interpreter(1)
        if len(smallest.output_shape) != 1:
            raise FormatError("not a classifier")
        self._max_batch = _MAX_BATCH if smallest.takes_batches else 1

    def predict(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See ports.Classifier; any number of samples, including none. Raises ValueError for another sample shape."""
        smallest = self._interpreter(1)
        if x.shape[1:] != smallest.sample_shape:
            raise ValueError(f"samples of shape {x.shape[1:]} for a model of {smallest.sample_shape}")
        result = np.empty((len(x), *smallest.output_shape), np.float32)
        for start in range(0, len(x), self._max_batch):
            part = x[start : start + self._max_batch]
            result[start : start + len(part)] = self._interpreter(_next_power_of_two(len(part))).run(part)
        return result

    def _interpreter(self, batch: int) -> "_Interpreter":
        """Resizing an interpreter repacks all weights, so there is one for each size used."""
        if batch not in self._interpreters:
            self._interpreters[batch] = _Interpreter(self._content, batch, self._num_threads)
        return self._interpreters[batch]


class _Interpreter:
    """A TFLite interpreter for up to `batch` samples at once; for single ones if the file supports only those.

    Such a file may accept more and mix them up: what counts is whether its signature has a variable batch dimension.
    """

    def __init__(self, content: bytes, batch: int, num_threads: int) -> None:
        try:
            self._tflite = _interpreter_class()(model_content=content, num_threads=num_threads)
            (samples,), (probabilities,) = self._tflite.get_input_details(), self._tflite.get_output_details()
            self.sample_shape = tuple(int(n) for n in samples["shape"][1:])
            self.takes_batches = bool(samples["shape_signature"][0] == -1)
            self.batch = batch = batch if self.takes_batches else 1
            self._input, self._output = samples["index"], probabilities["index"]
            self._tflite.resize_tensor_input(self._input, (batch, *self.sample_shape))
            self._tflite.allocate_tensors()
            output_shape = self._tflite.get_output_details()[0]["shape"]
        except (ValueError, RuntimeError, IndexError) as error:
            raise FormatError(f"not a usable .tflite file: {error}") from error
        if (samples["dtype"], probabilities["dtype"]) != (np.float32, np.float32) or output_shape[0] != batch:
            raise FormatError("not a model from float32 samples to float32 outputs, a row for each sample")
        self.output_shape = tuple(int(n) for n in output_shape[1:])
        self._padded = np.zeros((batch, *self.sample_shape), np.float32)

    def run(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self._padded[: len(x)] = x
        self._tflite.set_tensor(self._input, self._padded)
        self._tflite.invoke()
        result: npt.NDArray[np.float32] = self._tflite.get_tensor(self._output)[: len(x)]
        return result


class TfliteFeatures:
    """A .tflite file with outputs of any shape in a TFLite runtime: a `ports.FeatureExtractor`. One call at a time.

    Trusts its content as TfliteClassifier does.
    """

    def __init__(self, content: bytes, num_threads: int = 1) -> None:
        self._interpreter = _Interpreter(content, _MAX_BATCH, num_threads)
        self.sample_shape = self._interpreter.sample_shape

    def features(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        result = np.empty((len(x), *self._interpreter.output_shape), np.float32)
        for start in range(0, len(x), self._interpreter.batch):
            part = x[start : start + self._interpreter.batch]
            result[start : start + len(part)] = self._interpreter.run(part)
        return result


class NumpyFeatures:
    """One of edged's own .tflite files with outputs of any shape, run by numpy: a `ports.FeatureExtractor`."""

    def __init__(self, content: bytes) -> None:
        read = read_tflite(content)
        self._params = read.params
        self._output_shape = shapes(read.sample_shape, read.layers)[-1]
        layers = [*read.layers, Flatten()]
        self._layers = make_layers(read.sample_shape, layers, micro_batch=_MAX_BATCH, dtype=np.float32)
        begin(self._layers, read.params)

    def features(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        result = np.empty((len(x), *self._output_shape), np.float32)
        for start in range(0, len(x), _MAX_BATCH):
            y = x[start : start + _MAX_BATCH]
            for layer in self._layers:
                y = layer.forward(self._params, y)
            result[start : start + len(y)] = y.reshape(len(y), *self._output_shape)
        return result


class NumpyClassifier:
    """One of edged's own .tflite files, run by numpy: slower, and safe with any content (FormatError)."""

    def __init__(self, content: bytes) -> None:
        read = read_tflite(content)
        if read.labels is None:
            raise FormatError("not a classifier")
        self._params, self._sample_shape = read.params, read.sample_shape
        self._model = Model(read.sample_shape, read.layers)

    def predict(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See ports.Classifier. Raises ValueError for another sample shape."""
        if x.shape[1:] != self._sample_shape:
            raise ValueError(f"samples of shape {x.shape[1:]} for a model of {self._sample_shape}")
        return softmax(self._model.logits(self._params, x))


def load_classifier(content: bytes, num_threads: int = 1) -> Classifier:
    """The classifier in `content`, run by the tested runtime. Raises FormatError.

    The caller verifies by its SHA-256 that edged wrote the content; see TfliteClassifier.
    """
    if prepare_runtime().name == "numpy":
        return NumpyClassifier(content)
    return TfliteClassifier(content, num_threads)


def load_features(content: bytes, num_threads: int = 1) -> FeatureExtractor:
    """The feature extractor in `content`, run by the tested runtime. Otherwise as `load_classifier`."""
    if prepare_runtime().name == "numpy":
        return NumpyFeatures(content)
    return TfliteFeatures(content, num_threads)


def load_foreign_features(content: bytes, num_threads: int = 1) -> FeatureExtractor:
    """As `load_features`, for a file that edged did not write; it is run in a child process first.

    Raises FormatError when no TFLite runtime works here or can run the file.
    """
    runtime = prepare_runtime()
    if runtime.name == "numpy":
        raise FormatError(f"only a TFLite runtime can run it, and none works here: {runtime.problem}")
    _probe(content)
    return TfliteFeatures(content, num_threads)


@functools.cache
def prepare_runtime() -> Runtime:
    """Determine what can run models here, and log it: once per process, within a second, or seconds on a Pi.

    Call it before other threads write to stderr: on its first run the runtime prints its delegate there, not in the
    log's format, which is suppressed by silencing the process's stderr meanwhile.
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
    """Run a small model in a child process. The numpy runtime, with the problem, when the child fails."""
    try:
        stdout, stderr = _probe(b"")
        tested = json.loads(stdout)
        return Runtime(tested["name"], tested["version"], "xnnpack" if "XNNPACK" in stderr else "none")
    except FormatError as error:
        return _numpy(str(error))
    except (ValueError, LookupError, TypeError) as error:
        return _numpy(f"unexpected output of the probe: {error}")


def _probe(content: bytes) -> tuple[str, str]:
    """Run a small model in a child process, and `content` unless it is empty. Returns its stdout and stderr.

    Raises FormatError when it fails.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "edged.adapters.tflite.probe"],
            input=content, capture_output=True, check=False, env=environment, timeout=_PROBE_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FormatError(f"the probe did not run: {error}") from error
    stderr = child.stderr.decode(errors="replace")
    if child.returncode:
        last_line = stderr.strip().rpartition("\n")[2]
        raise FormatError(f"the probe ended with {child.returncode}: {last_line}")
    return child.stdout.decode(errors="replace"), stderr


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
    package = _interpreter_class().__module__.partition(".")[0].replace("_", "-")
    return package, importlib.metadata.version(package)


def check_features(content: bytes) -> None:
    """Compute features of a few samples with `content`, as one batch and one by one.

    Raises FormatError when the results differ, or whatever a broken runtime raises, if it does not crash the process.
    """
    extractor = TfliteFeatures(content)
    x = np.random.default_rng(0).random((3, *extractor.sample_shape), np.float32)
    batched = extractor.features(x)
    singly = np.concatenate([extractor.features(x[i : i + 1]) for i in range(len(x))])
    if not np.allclose(batched, singly, rtol=1e-3, atol=1e-3):
        raise FormatError("a sample's features depend on the other samples of a batch")


def _interpreter_class() -> Any:
    # Imported late: only after a child process has shown that the import does not crash.
    try:
        from tflite_runtime.interpreter import Interpreter  # noqa: PLC0415
    except ImportError:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
    return Interpreter


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


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
