"""Runs .tflite files in a TFLite runtime: tflite-runtime, or its successor LiteRT.

Only content that a child process has run: TFLite trusts the numbers in a file, and altered ones can crash the process.
Imports little, because each such child does. See also: `proof` (the child), `runtime` (whether a runtime works here).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from edged.errors import FormatError

MAX_BATCH = 32
"""Samples per run of the interpreter; limits the memory of activations."""


class TfliteClassifier:
    """A .tflite file in a TFLite runtime. One call at a time. Raises FormatError for damage that TFLite detects."""

    def __init__(self, content: bytes, num_threads: int = 1) -> None:
        self._content, self._num_threads = content, num_threads
        self._interpreters: dict[int, Interpreter] = {}
        smallest = self._interpreter(1)
        if len(smallest.output_shape) != 1:
            raise FormatError("not a classifier")
        self._max_batch = MAX_BATCH if smallest.takes_batches else 1

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

    def _interpreter(self, batch: int) -> "Interpreter":
        """Resizing an interpreter repacks all weights, so there is one for each size used."""
        if batch not in self._interpreters:
            self._interpreters[batch] = Interpreter(self._content, batch, self._num_threads)
        return self._interpreters[batch]


class Interpreter:
    """A TFLite interpreter for up to `batch` samples at once; for single ones if the file supports only those.

    Such a file may accept more and mix them up: what counts is whether its signature has a variable batch dimension.
    """

    def __init__(self, content: bytes, batch: int, num_threads: int = 1) -> None:
        try:
            self._tflite = interpreter_class()(model_content=content, num_threads=num_threads)
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
    """A .tflite file with outputs of any shape in a TFLite runtime: a `ports.FeatureExtractor`. One call at a time."""

    def __init__(self, content: bytes, num_threads: int = 1) -> None:
        self._interpreter = Interpreter(content, MAX_BATCH, num_threads)
        self.sample_shape = self._interpreter.sample_shape

    def features(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        result = np.empty((len(x), *self._interpreter.output_shape), np.float32)
        for start in range(0, len(x), self._interpreter.batch):
            part = x[start : start + self._interpreter.batch]
            result[start : start + len(part)] = self._interpreter.run(part)
        return result


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def interpreter_class() -> Any:
    """The runtime's own class. Imports it: only after a child process has shown that the import does not crash."""
    try:
        from tflite_runtime.interpreter import Interpreter  # noqa: PLC0415
    except ImportError:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
    return Interpreter
