"""The runtimes against numpy, and the proof that comes before them.

The classifiers run in the runtime that this Python has (tflite-runtime or LiteRT), and in numpy.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from edged.adapters import tflite
from edged.adapters.tflite import NumpyClassifier, TfliteClassifier, load_classifier, prepare_runtime, probe_runtime
from edged.adapters.tflite_writer import to_tflite
from edged.domain.nn.loss import softmax
from edged.domain.nn.model import Model
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, Relu
from edged.errors import FormatError

CLASSIFIERS = [TfliteClassifier, NumpyClassifier]

CASES: dict[str, tuple[tuple[int, ...], list[LayerSpec]]] = {
    "the example topology's": ((28, 28, 1), [
        Conv2d(32, (3, 3), activation="relu"), MaxPool2d((2, 2), (2, 2)), Conv2d(64, (3, 3), activation="relu"),
        MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(10),
    ]),
    "same padding, odd sizes": ((13, 10, 3), [
        Conv2d(4, (3, 4), (2, 2), "same", "relu"), Conv2d(5, (4, 3), (1, 2), "same"), Flatten(), Dense(4),
    ]),
    "overlapping pools": ((12, 9, 2), [
        MaxPool2d((3, 2), (1, 1)), Conv2d(4, (1, 2), (1, 2)), MaxPool2d((3, 2), (2, 1)), Flatten(), Dense(7),
    ]),
    "dense alone": ((20,), [Dense(8, "relu"), Relu(), Dense(3)]),
    "flatten alone": ((2, 3), [Flatten(), Dense(2)]),
}  # fmt: skip


def trained(case: str) -> tuple[bytes, Model, Params]:
    """A file, and the model and weights in it; the weights are not those of the start."""
    shape, layers = CASES[case]
    model, rng = Model(shape, layers), np.random.default_rng(0)
    params = {
        name: value + rng.normal(0, 0.1, value.shape).astype(np.float32) for name, value in model.initial(0).items()
    }
    labels = [f"class {i}" for i in range(list(params.values())[-1].size)]
    return to_tflite(shape, layers, params, labels=labels), model, params


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_those_of_the_trained_model(case, classifier):
    content, model, params = trained(case)
    loaded = classifier(content)
    for n in (1, 3, 70, 2):
        x = np.random.default_rng(n).random((n, *CASES[case][0]), dtype=np.float32)
        probabilities = loaded.predict(x)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, softmax(model.logits(params, x)), atol=1e-4)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_no_samples_have_no_probabilities(classifier):
    loaded = classifier(trained("dense alone")[0])
    assert loaded.predict(np.empty((0, 20), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_earlier_predictions_are_not_overwritten(classifier):
    loaded = classifier(trained("dense alone")[0])
    first = loaded.predict(np.zeros((2, 20), np.float32))
    kept = first.copy()
    loaded.predict(np.ones((2, 20), np.float32))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_samples_of_another_shape_are_refused(classifier):
    with pytest.raises(ValueError, match="shape"):
        classifier(trained("dense alone")[0]).predict(np.zeros((2, 19), np.float32))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("content", [b"", b"not a model at all", bytes(4096)], ids=["empty", "text", "zeros"])
def test_what_is_no_model_is_refused(classifier, content):
    with pytest.raises(FormatError):
        classifier(content)


def test_the_runtime_uses_xnnpack_and_says_so():
    assert probe_runtime().delegate == "xnnpack"


def test_the_runtime_stays_off_stderr_which_carries_the_log(tmp_path):
    (tmp_path / "model.tflite").write_bytes(trained("the example topology's")[0])
    program = (
        "import pathlib, sys, numpy; from edged.adapters.tflite import load_classifier, prepare_runtime;"
        "print(prepare_runtime().name);"
        "load_classifier(pathlib.Path(sys.argv[1]).read_bytes()).predict(numpy.ones((5, 28, 28, 1), 'f4'))"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model.tflite"],
        capture_output=True, check=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (child.stdout.strip() in {"tflite-runtime", "ai-edge-litert"}, child.stderr) == (True, "")


@pytest.fixture
def broken_runtime(tmp_path, monkeypatch):
    """A runtime, found before any real one, whose import does `statement`."""

    def install(statement: str) -> None:
        package = tmp_path / "tflite_runtime"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "interpreter.py").write_text(statement)
        monkeypatch.syspath_prepend(tmp_path)
        prepare_runtime.cache_clear()

    yield install
    prepare_runtime.cache_clear()


@pytest.mark.parametrize("statement", [
    "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
    "raise RuntimeError('built for another NumPy')",
    "class Interpreter:\n    def __init__(self, **_): raise ValueError('no operators')",
], ids=["illegal instruction", "import fails", "runs nothing"])  # fmt: skip
def test_a_runtime_that_breaks_its_process_is_replaced_by_numpy(broken_runtime, statement):
    broken_runtime(statement)
    content, model, params = trained("dense alone")
    runtime = prepare_runtime()
    assert runtime.name == "numpy"
    assert "probe ended" in runtime.problem
    x = np.ones((2, 20), np.float32)
    np.testing.assert_allclose(load_classifier(content).predict(x), softmax(model.logits(params, x)), atol=1e-6)


def test_without_any_python_to_probe_with_numpy_runs_the_models(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert probe_runtime().name == "numpy"


def test_a_probe_that_hangs_counts_as_broken(monkeypatch):
    monkeypatch.setattr(tflite, "_PROBE_DEADLINE_S", 0.0)
    assert probe_runtime().name == "numpy"
