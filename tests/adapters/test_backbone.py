"""Frozen layers: read from files of edged's, run, and joined with a head."""

import numpy as np
import pytest

from edged.adapters.backbone import read_backbone
from edged.adapters.tflite import NumpyClassifier, NumpyFeatures, TfliteClassifier, TfliteFeatures
from edged.adapters.tflite_writer import to_tflite
from edged.domain.nn.loss import softmax
from edged.domain.nn.model import Model
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import AvgPool2d, Conv2d, Dense, Flatten, GroupNorm, LayerSpec, MaxPool2d
from edged.errors import FormatError, StorageError
from tests.fashion import SHAPE, accuracy, images, train

LAYERS: tuple[LayerSpec, ...] = (
    Conv2d(8, (3, 3), (2, 2), activation="relu"), MaxPool2d((2, 2), (2, 2)), Conv2d(16, (3, 3), activation="relu"),
    Flatten(), Dense(5),
)  # fmt: skip
HEAD: tuple[LayerSpec, ...] = (Dense(5),)


def test_what_was_learnt_of_half_of_the_classes_serves_the_other_half(tmp_path):
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
    layers, joined = backbone.join(HEAD, head)
    content = to_tflite(SHAPE, layers, joined, labels=new.labels)

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


def test_a_file_of_features_is_taken_whole_and_a_classifier_without_its_last_layer(tmp_path):
    params = initial_params(SHAPE, LAYERS, 0)
    whole, below = to_tflite(SHAPE, LAYERS, params, labels=list("abcde")), LAYERS[:-1]
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "features").write_bytes(to_tflite(SHAPE, below, initial_params(SHAPE, below, 0), labels=None))
    assert read_backbone(tmp_path / "whole").layers == read_backbone(tmp_path / "features").layers == below


def test_what_is_no_backbone_is_refused(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        read_backbone(tmp_path / "nowhere.tflite")
    (tmp_path / "head.tflite").write_bytes(to_tflite((4,), HEAD, initial_params((4,), HEAD, 0), labels=list("abcde")))
    with pytest.raises(FormatError, match="no layers before"):
        read_backbone(tmp_path / "head.tflite")
