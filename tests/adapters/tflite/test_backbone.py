"""Frozen backbones: read from a file, run, and joined with a head."""

import os

import numpy as np
import numpy.typing as npt
import pytest
import tflite

from edged.adapters.tflite import runtime as runtimes
from edged.adapters.tflite.backbone import ForeignBackbone, KnownBackbone, read_backbone
from edged.adapters.tflite.file import encode
from edged.adapters.tflite.foreign import read_foreign
from edged.adapters.tflite.graph import Graph
from edged.adapters.tflite.int8 import quantisation_of
from edged.adapters.tflite.interpreter import TfliteClassifier, TfliteFeatures
from edged.adapters.tflite.lowering import lower
from edged.adapters.tflite.runtime import NumpyClassifier, NumpyFeatures, Runtime
from edged.adapters.tflite.writer import to_tflite
from edged.domain.nn.loss import softmax
from edged.domain.nn.model import Model
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import AvgPool2d, Conv2d, Dense, Flatten, GroupNorm, LayerSpec, MaxPool2d
from edged.errors import FormatError, StorageError
from tests.support.fashion import SHAPE, accuracy, images, train
from tests.support.litert import predict_with_litert

LAYERS: tuple[LayerSpec, ...] = (
    Conv2d(8, (3, 3), (2, 2), activation="relu"), MaxPool2d((2, 2), (2, 2)), Conv2d(16, (3, 3), activation="relu"),
    Flatten(), Dense(5),
)  # fmt: skip
HEAD: tuple[LayerSpec, ...] = (Dense(5),)


def test_features_learnt_from_half_of_the_classes_help_with_the_other_half(tmp_path):
    known, new = (images("train").of(classes) for classes in ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)))
    test = images("test").of((5, 6, 7, 8, 9))
    params = train(LAYERS, known, epochs=2)
    (tmp_path / "model.tflite").write_bytes(to_tflite(SHAPE, LAYERS, params, labels=known.labels))

    backbone = read_backbone(tmp_path / "model.tflite")
    extractor = backbone.extractor()
    assert backbone.file.features == (256,)
    features, test_features = extractor.features(new.x), extractor.features(test.x)
    new.x = features
    head = train(HEAD, new, epochs=4, shape=(256,))
    content = backbone.join(HEAD, head, new.labels)

    expected = softmax(Model((256,), HEAD).logits(head, test_features))
    assert accuracy(expected, test.y) > 0.85
    for classifier in (TfliteClassifier, NumpyClassifier):
        np.testing.assert_allclose(classifier(content).predict(test.x), expected, atol=1e-4)


@pytest.mark.parametrize("extractor", [TfliteFeatures, NumpyFeatures])
def test_features_may_have_any_shape(extractor):
    layers = (Conv2d(4, (3, 3)), GroupNorm(2), AvgPool2d((2, 2), (2, 2)))
    params = initial_params((9, 9, 2), layers, 0)
    x = np.random.default_rng(0).random((70, 9, 9, 2), dtype=np.float32)
    flat = Model((9, 9, 2), (*layers, Flatten())).logits(params, x)
    features = extractor(to_tflite((9, 9, 2), layers, params, labels=None)).features(x)
    assert features.shape == (70, 3, 3, 4)
    np.testing.assert_allclose(features.reshape(70, -1), flat, atol=1e-4)
    assert extractor(to_tflite((9, 9, 2), layers, params, labels=None)).features(x[:0]).shape == (0, 3, 3, 4)


def test_a_feature_file_is_used_whole_and_a_classifier_without_its_last_layer(tmp_path):
    params = initial_params(SHAPE, LAYERS, 0)
    whole, below = to_tflite(SHAPE, LAYERS, params, labels=list("abcde")), LAYERS[:-1]
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "features").write_bytes(to_tflite(SHAPE, below, initial_params(SHAPE, below, 0), labels=None))
    for name in ("whole", "features"):
        backbone = read_backbone(tmp_path / name)
        assert isinstance(backbone, KnownBackbone)
        assert backbone.layers == below


def test_files_that_are_no_backbone_are_refused(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        read_backbone(tmp_path / "nowhere.tflite")
    os.mkfifo(tmp_path / "pipe.tflite")
    with pytest.raises(StorageError, match="no regular file"):
        read_backbone(tmp_path / "pipe.tflite")
    broken = {name: np.full_like(value, np.nan) for name, value in initial_params(SHAPE, LAYERS, 0).items()}
    (tmp_path / "broken.tflite").write_bytes(to_tflite(SHAPE, LAYERS, broken, labels=list("abcde")))
    with pytest.raises(FormatError, match="not finite"):
        read_backbone(tmp_path / "broken.tflite")
    (tmp_path / "head.tflite").write_bytes(to_tflite((4,), HEAD, initial_params((4,), HEAD, 0), labels=list("abcde")))
    with pytest.raises(FormatError, match="no layers before"):
        read_backbone(tmp_path / "head.tflite")


# files that edged did not write

_OPERATORS = tflite.BuiltinOperator
BELOW: tuple[LayerSpec, ...] = (Conv2d(4, (3, 3), (2, 2), activation="relu"), Conv2d(6, (3, 3), (2, 2)))
BELOW_PARAMS = initial_params(SHAPE, BELOW, 0)
FOREIGN_HEAD: tuple[LayerSpec, ...] = (Flatten(), Dense(7, "relu"), Dense(5))


def foreign(*, is_for_single_samples: bool = False, last_operator: int = _OPERATORS.HARD_SWISH) -> bytes:
    """Two convolutions, and an operator that edged has no layer for; with `single`, for single samples only."""
    graph = lower(SHAPE, BELOW, BELOW_PARAMS)
    graph.output = graph.add(last_operator, [graph.output], "last", (6, 6, 6))
    if is_for_single_samples:
        shape = graph.constant("fixed", np.array([1, 36, 6], np.int32))
        graph.output = graph.add(_OPERATORS.RESHAPE, [graph.output, shape], "reshaped", (36, 6))
    content = bytearray(
        encode(graph, description="From elsewhere", metadata={"made.by": "somebody"}, output="features")
    )
    if is_for_single_samples:
        tensors = tflite.Model.GetRootAs(content, 0).Subgraphs(0)
        tensors.Tensors(tensors.Inputs(0)).ShapeSignatureAsNumpy()[0] = 1
    return bytes(content)


def swish(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    below = Model(SHAPE, (*BELOW, Flatten())).logits(BELOW_PARAMS, x)
    result: npt.NDArray[np.float32] = below * np.clip(below + 3, 0, 6) / 6
    return result


def backbone_in(folder, content: bytes) -> ForeignBackbone:
    (folder / "backbone.tflite").write_bytes(content)
    backbone = read_backbone(folder / "backbone.tflite")
    assert isinstance(backbone, ForeignBackbone)
    return backbone


@pytest.mark.parametrize(("single", "shape"), [(False, (6, 6, 6)), (True, (36, 6))], ids=["any batch", "single"])
def test_a_foreign_file_computes_features_and_accepts_a_head(single, shape, tmp_path):
    backbone = backbone_in(tmp_path, foreign(is_for_single_samples=single))
    assert (backbone.file.sample_shape, backbone.file.features) == (SHAPE, shape)
    x = np.random.default_rng(0).random((70, *SHAPE), dtype=np.float32)
    features = backbone.extractor().features(x)
    np.testing.assert_allclose(features.reshape(70, -1), swish(x), atol=1e-4)

    head = initial_params(shape, FOREIGN_HEAD, 1)
    content = backbone.join(FOREIGN_HEAD, head, list("abcde"))
    expected = softmax(Model(shape, FOREIGN_HEAD).logits(head, features))
    classifier = TfliteClassifier(content)
    for n in (1, 70, 3, 0):
        np.testing.assert_allclose(classifier.predict(x[:n]), expected[:n], atol=1e-4)
    (tmp_path / "litert").mkdir()
    runtime, predicted = predict_with_litert(tmp_path / "litert", {"joined": (content, x), "again": (content, x[:5])})
    assert runtime == "ai-edge-litert xnnpack"
    np.testing.assert_allclose(predicted["joined"], expected, atol=1e-4)
    np.testing.assert_allclose(predicted["again"], expected[:5], atol=1e-4)


def test_the_joined_file_contains_the_original_byte_by_byte(tmp_path):
    content = foreign()
    joined = backbone_in(tmp_path, content).join(
        FOREIGN_HEAD, initial_params((6, 6, 6), FOREIGN_HEAD, 1), list("abcde")
    )
    assert content in joined
    assert read_foreign(joined) == (SHAPE, (5,))
    with pytest.raises(FormatError, match="no layers"):
        NumpyClassifier(joined)


def integers_in_and_out() -> bytes:
    graph = Graph("x", "x", {"x": (4,)}, quantisations={"x": quantisation_of(0, 1), "y": quantisation_of(0, 1)})
    graph.output = graph.add(_OPERATORS.RELU, ["x"], "y", (4,))
    return encode(graph, description="", metadata={}, output="y")


def test_a_foreign_file_that_computes_no_features_is_refused(tmp_path):
    with pytest.raises(FormatError, match="its input is int8, not float32"):
        backbone_in(tmp_path, integers_in_and_out())
    with pytest.raises(FormatError, match=r"not a \.tflite file"):
        backbone_in(tmp_path, b"something else")


def test_a_foreign_file_that_the_runtime_cannot_run_fails_in_a_child_process(tmp_path):
    backbone = backbone_in(tmp_path, foreign(last_operator=_OPERATORS.CUSTOM))
    with pytest.raises(FormatError, match="the probe ended with 1"):
        backbone.extractor()


def test_a_foreign_file_needs_a_runtime(tmp_path, monkeypatch):
    backbone = backbone_in(tmp_path, foreign())
    monkeypatch.setattr(runtimes, "prepare_runtime", lambda: Runtime("numpy", "1", problem="illegal instruction"))
    with pytest.raises(FormatError, match="none works here: illegal instruction"):
        backbone.extractor()


def test_damaged_foreign_files_are_accepted_or_refused_without_other_errors():
    rng, content = np.random.default_rng(0), np.frombuffer(foreign(), np.uint8)
    num_refused = 0
    for _ in range(400):
        damaged = content.copy()
        damaged[rng.integers(0, len(content), 60)] = rng.integers(0, 256, 60)
        try:
            read_foreign(damaged.tobytes())
        except FormatError:
            num_refused += 1
    assert num_refused > 50
