"""The runtimes against numpy, and the test that each must pass first.

The classifiers run in the runtime that this Python has (tflite-runtime or LiteRT), and in numpy.
"""

import errno
import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from edged.adapters.tflite import proof
from edged.adapters.tflite.interpreter import TfliteClassifier, interpreter_class
from edged.adapters.tflite.proof import Probe
from edged.adapters.tflite.runtime import NumpyClassifier, NumpyFeatures, load_features, prepare_runtime, probe_runtime
from edged.adapters.tflite.writer import to_tflite
from edged.domain.nn.loss import softmax
from edged.domain.nn.model import Model
from edged.domain.nn.params import Params
from edged.domain.nn.spec import (
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerSpec,
    MaxPool1d,
    MaxPool2d,
    Relu,
    Relu6,
    Tanh,
)
from edged.errors import FormatError, NotProven
from tests.support.clock import DAY_S, Clock
from tests.support.fashion import LAYERS, SHAPE, Images, accuracy, images, trained_params
from tests.support.kernels import required_kernels
from tests.support.litert import predict_with_litert
from tests.support.other_backend import OtherBackend
from tests.support.preloaded import need_compiler


def by_kernels(content: bytes) -> NumpyClassifier:
    return NumpyClassifier(content, required_kernels())


CLASSIFIERS = [TfliteClassifier, NumpyClassifier, by_kernels]

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
    "depthwise": ((17, 12, 3), [
        Conv2d(8, (3, 3), (2, 2), "same", "relu6"), DepthwiseConv2d((3, 3), (1, 2), "same", "relu"),
        Conv2d(12, (1, 1), activation="tanh"), DepthwiseConv2d((2, 3)), Relu6(), AvgPool2d((2, 1), (1, 1)), Tanh(),
        Dropout(0.5), GlobalAvgPool(), Dense(4),
    ]),
    "a series": ((64, 3), [
        Conv1d(8, 5, 2, "same", "relu"), MaxPool1d(2, 2), Conv1d(6, 4, activation="tanh"), AvgPool1d(3, 2),
        Relu(), Conv1d(5, 2), Flatten(), Dense(6, "relu6"), Dense(3),
    ]),
    "a series' mean": ((24, 4), [Relu(), GlobalAvgPool(), Dropout(0.1), Dense(5, "tanh"), Dense(3)]),
    "group norms": ((14, 10, 2), [
        Conv2d(8, (3, 3), (2, 2)), GroupNorm(4), Relu(), Conv2d(6, (3, 3)), GroupNorm(1, 1e-3), Tanh(), Flatten(),
        GroupNorm(3), Dense(5),
    ]),
    "group norms of a series": ((32, 4), [
        GroupNorm(2), Conv1d(6, 3), GroupNorm(6), MaxPool1d(2, 1), Flatten(), Dense(3),
    ]),
}  # fmt: skip


def samples(case: str, n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random((n, *CASES[case][0]), dtype=np.float32)


def trained(case: str, *, int8: bool = False) -> tuple[bytes, Model, Params]:
    """A file, and the model and weights in it; the weights are not the initial ones."""
    shape, layers = CASES[case]
    model, rng = Model(shape, layers), np.random.default_rng(0)
    params = {
        name: value + rng.normal(0, 0.1 if value.ndim == 1 else 0.02, value.shape).astype(np.float32)
        for name, value in model.initial(0).items()
    }
    labels = [f"class {i}" for i in range(list(params.values())[-1].size)]
    calibration = samples(case, 200, seed=1) if int8 else None
    return to_tflite(shape, layers, params, labels=labels, calibration=calibration), model, params


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_those_of_the_trained_model(case, classifier):
    content, model, params = trained(case)
    loaded = classifier(content)
    for n in (1, 3, 70, 2):
        x = samples(case, n, seed=n)
        probabilities = loaded.predict(x)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, softmax(model.logits(params, x)), atol=1e-4)


def test_without_a_runtime_the_backend_computes_the_layers_that_it_can():
    content, *_ = trained("dense alone")
    x = samples("dense alone", 70)
    for plain, other in (
        [NumpyClassifier(content, backend).predict(x) for backend in (None, OtherBackend())],
        [NumpyFeatures(content, backend).features(x) for backend in (None, OtherBackend())],
    ):
        np.testing.assert_allclose(plain, other, rtol=1e-4)
        assert (plain != other).any()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("case", CASES)
def test_an_int8_model_stays_close_to_the_trained_one(case, classifier):
    content, model, params = trained(case, int8=True)
    loaded = classifier(content)
    for n in (3, 70):
        x = samples(case, n)
        error = np.abs(loaded.predict(x) - softmax(model.logits(params, x)))
        assert error.max() < 0.06
        assert error.mean() < 0.01


@pytest.mark.parametrize("case", CASES)
def test_every_operator_but_the_named_exceptions_runs_in_int8(case):
    """By the types of the tensors that the runtime itself reports."""
    content, *_ = trained(case, int8=True)
    interpreter = interpreter_class()(model_content=content)
    types = {tensor["name"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    for index, layer in enumerate(CASES[case][1]):
        name = f"{index}.{layer.kind}"
        if isinstance(layer, Dropout):
            assert name not in types
        else:
            assert types[name] == (np.float32 if isinstance(layer, GroupNorm) else np.int8), name
            assert types.get(f"{name}.kernel", np.int8) == np.int8


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_no_samples_give_no_probabilities(classifier):
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
def test_content_that_is_no_model_is_refused(classifier, content):
    with pytest.raises(FormatError):
        classifier(content)


@pytest.fixture(scope="module")
def fashion() -> tuple[Images, Params, npt.NDArray[np.float32]]:
    """Test images, the example's weights after two epochs, and samples to calibrate with."""
    return images("test"), trained_params(), images("train").x[:256]


def fashion_models(params: Params, calibration: npt.NDArray[np.float32]) -> dict[str, tuple[bytes, float]]:
    """float32 and int8, each with the accuracy it may lose."""
    labels = [str(i) for i in range(10)]
    return {
        "float32": (to_tflite(SHAPE, LAYERS, params, labels=labels), 0.002),
        "int8": (to_tflite(SHAPE, LAYERS, params, labels=labels, calibration=calibration), 0.01),
    }


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("form", ["float32", "int8"])
def test_the_accuracy_on_real_images_is_kept(fashion, form, classifier):
    test, params, calibration = fashion
    content, max_loss = fashion_models(params, calibration)[form]
    trained_accuracy = accuracy(Model(SHAPE, LAYERS).logits(params, test.x), test.y)
    assert trained_accuracy > 0.75
    assert accuracy(classifier(content).predict(test.x), test.y) == pytest.approx(trained_accuracy, abs=max_loss)


def test_litert_computes_the_same_from_the_same_files(fashion, tmp_path):
    test, params, calibration = fashion
    models = fashion_models(params, calibration)
    files = {f"{form} {case}": trained(case, int8=form == "int8")[0] for form in models for case in CASES}
    cases = {name: (content, samples(name.partition(" ")[2], 70)) for name, content in files.items()}
    cases |= {form: (content, test.x) for form, (content, _) in models.items()}
    runtime, predicted = predict_with_litert(tmp_path, cases)
    assert runtime == "ai-edge-litert xnnpack"
    for name, (content, x) in cases.items():
        tolerance = 1e-4 if name.startswith("float32") else 0.05  # runtimes may round a logit to the next step
        np.testing.assert_allclose(predicted[name], TfliteClassifier(content).predict(x), atol=tolerance)
    trained_accuracy = accuracy(Model(SHAPE, LAYERS).logits(params, test.x), test.y)
    for form, (_, max_loss) in models.items():
        assert accuracy(predicted[form], test.y) == pytest.approx(trained_accuracy, abs=max_loss)


def test_the_runtime_uses_xnnpack_and_reports_it():
    assert probe_runtime().delegate == "xnnpack"


def test_the_runtime_writes_nothing_to_stderr_where_the_log_is(tmp_path):
    (tmp_path / "model.tflite").write_bytes(trained("the example topology's")[0])
    program = (
        "import pathlib, sys, numpy; from edged.adapters.tflite.runtime import load_features, prepare_runtime;"
        "from edged.log.output import configure; configure(node='n', tier='t', run_id='r', level='error');"
        "print(prepare_runtime().name);"
        "load_features(pathlib.Path(sys.argv[1]).read_bytes()).features(numpy.ones((5, 28, 28, 1), 'f4'))"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model.tflite"],
        capture_output=True, check=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (child.stdout.strip() in {"tflite-runtime", "ai-edge-litert"}, child.stderr) == (True, "")


@pytest.fixture
def broken_runtime(tmp_path, monkeypatch):
    """A runtime that precedes any real one and whose import executes `statement`."""

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
def test_a_runtime_that_crashes_its_process_is_replaced_by_numpy_and_logged(broken_runtime, statement, log_lines):
    broken_runtime(statement)
    content, model, params = trained("dense alone")
    runtime = prepare_runtime()
    assert runtime.name == "numpy"
    assert "probe ended" in runtime.problem
    (line,) = log_lines("infer.runtime")
    assert (line["level"], line["runtime"], line["problem"]) == ("warning", "numpy", runtime.problem)
    x = np.ones((2, 20), np.float32)
    loaded = load_features(content)
    assert isinstance(loaded, NumpyFeatures)
    np.testing.assert_allclose(softmax(loaded.features(x)), softmax(model.logits(params, x)), atol=1e-6)


def test_the_runtime_is_logged_once(log_lines):
    prepare_runtime.cache_clear()
    runtime = prepare_runtime()
    prepare_runtime()
    (line,) = log_lines("infer.runtime")
    assert (line["runtime"], line["version"], line["delegate"]) == (runtime.name, runtime.version, "xnnpack")
    assert "problem" not in line


def test_without_a_python_for_the_probe_numpy_runs_the_models(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert probe_runtime().name == "numpy"


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_where_no_child_can_be_started_now_nothing_is_decided_for_the_life_of_the_process(monkeypatch, code):
    def refused(*_args, **_options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as short:
        short.setattr(subprocess, "Popen", refused)
        prepare_runtime.cache_clear()
        with pytest.raises(NotProven, match=os.strerror(code)):
            prepare_runtime()
    assert prepare_runtime().problem == ""


def test_a_child_that_is_killed_for_want_of_memory_decides_nothing_either(monkeypatch):
    killed = Probe()
    killed.stop()
    monkeypatch.setattr("edged.adapters.tflite.runtime.Probe", lambda: killed)
    with pytest.raises(NotProven, match="SIGKILL"):
        probe_runtime()


def test_a_probe_that_hangs_counts_as_broken(monkeypatch):
    monkeypatch.setattr(proof, "_TIMEOUT_S", 0.0)
    assert probe_runtime().name == "numpy"


def test_a_runtime_works_before_the_clock_is_set(tmp_path, monkeypatch):
    """A Pi has no clock of its own, and may start in 1970; ZIP files, for one, know no year before 1980."""
    need_compiler()
    clock = Clock(tmp_path / "clock")
    clock.set_to(60 * DAY_S)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)

    tested = probe_runtime()

    assert (tested.name, tested.problem) == (prepare_runtime().name, "")
