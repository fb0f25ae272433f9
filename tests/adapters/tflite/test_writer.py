"""The written file: its metadata, and that it can be read back."""

import json

import numpy as np
import pytest
import tflite

from edged.adapters.tflite.reader import read_tflite
from edged.adapters.tflite.writer import LABELS, to_tflite
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import (
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
    MaxPool2d,
    Relu,
)
from edged.errors import FormatError

SHAPE = (11, 9, 2)
LABELS_OF_MODEL = ("hen", "cock", "épervier")
LAYERS: list[LayerSpec] = [
    Conv2d(3, (3, 2), (1, 2), "same", "relu"), MaxPool2d((2, 2), (2, 1)), Conv2d(4, (2, 2)), Relu(), Flatten(),
    Dense(5, "relu"), Dense(3),
]  # fmt: skip
OTHER_LAYERS: list[LayerSpec] = [
    DepthwiseConv2d((3, 2), (1, 2), "same", "relu6"), GroupNorm(2, 0.25), AvgPool2d((2, 2), (1, 1)), Dropout(0.25),
    GlobalAvgPool(), Dense(3, "tanh"), Dense(3),
]  # fmt: skip
PARAMS = initial_params(SHAPE, LAYERS, seed=0)


def written(**options) -> bytes:
    return to_tflite(SHAPE, LAYERS, PARAMS, labels=LABELS_OF_MODEL, **options)


def test_a_written_file_can_be_read_back():
    read = read_tflite(written())
    assert (read.sample_shape, read.layers, read.labels) == (SHAPE, tuple(LAYERS), LABELS_OF_MODEL)
    assert list(read.params) == list(PARAMS)
    for name, value in PARAMS.items():
        np.testing.assert_array_equal(read.params[name], value)


@pytest.mark.parametrize(("shape", "layers"), [
    (SHAPE, OTHER_LAYERS), ((20, 2), [Conv1d(4, 3, 2, "same", "tanh"), GlobalAvgPool(), Dense(3)]),
])  # fmt: skip
def test_every_layer_and_its_weights_can_be_read_back(shape, layers):
    params = initial_params(shape, layers, seed=0)
    read = read_tflite(to_tflite(shape, layers, params, labels=LABELS_OF_MODEL))
    assert (read.sample_shape, read.layers) == (shape, tuple(layers))
    for name, value in params.items():
        np.testing.assert_array_equal(read.params[name], value)


def test_an_int8_model_is_read_back_with_rounded_weights():
    calibration = np.random.default_rng(0).random((50, *SHAPE), dtype=np.float32)
    read = read_tflite(written(calibration=calibration))
    assert read.layers == tuple(LAYERS)
    for name, value in PARAMS.items():
        per_channel = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0) if "conv" in name else np.abs(value).max()
        assert (np.abs(read.params[name] - value) <= per_channel / 127 / 2 + 1e-6).all(), name


def test_a_model_without_labels_outputs_its_last_layer():
    content = to_tflite(SHAPE, LAYERS[:2], initial_params(SHAPE, LAYERS[:2], 0), labels=None)
    model = tflite.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    assert graph.Tensors(graph.Outputs(0)).ShapeAsNumpy().tolist() == [1, 5, 4, 3]
    assert model.SignatureDefs(0).Outputs(0).Name() == b"outputs"
    assert read_tflite(content).labels is None


def test_the_same_model_gives_the_same_bytes():
    assert written() == written()


def test_the_file_names_its_tensors_and_describes_itself():
    content = written(description="Poultry", metadata={"edged.generation": "7"})
    model = tflite.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    samples, probabilities = graph.Tensors(graph.Inputs(0)), graph.Tensors(graph.Outputs(0))
    notes = {
        model.Metadata(i).Name().decode(): model.Buffers(model.Metadata(i).Buffer()).DataAsNumpy().tobytes().decode()
        for i in range(model.MetadataLength())
    }
    assert (samples.Name(), probabilities.Name()) == (b"samples", b"probabilities")
    assert samples.ShapeAsNumpy().tolist() == [1, *SHAPE]
    assert samples.ShapeSignatureAsNumpy().tolist() == [-1, *SHAPE]
    assert model.Description() == b"Poultry"
    assert json.loads(notes[LABELS]) == list(LABELS_OF_MODEL)
    assert notes["edged.generation"] == "7"


def test_buffers_are_aligned_as_the_schema_requires():
    content = written()
    model = tflite.Model.GetRootAs(content, 0)
    start = np.frombuffer(content, np.uint8).ctypes.data
    buffers = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength())]
    offsets = [buffer.ctypes.data - start for buffer in buffers if isinstance(buffer, np.ndarray)]
    assert len(offsets) > len(PARAMS)
    assert all(offset % 16 == 0 for offset in offsets)


def test_weights_or_labels_of_another_model_are_refused():
    with pytest.raises(ValueError, match="weights"):
        to_tflite(SHAPE, LAYERS[:-1], PARAMS, labels=LABELS_OF_MODEL)
    with pytest.raises(ValueError, match="labels"):
        to_tflite(SHAPE, LAYERS, PARAMS, labels=("hen", "cock"))


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x08\0\0\0TFL3", written()[:-1000], written()[:40], bytes(5000)])
def test_content_that_is_no_model_is_refused(content):
    with pytest.raises(FormatError):
        read_tflite(content)


def test_damaged_files_are_read_or_refused_without_other_errors():
    """Some damage only changes a weight; whatever it changes, there is no other error."""
    rng = np.random.default_rng(0)
    content = np.frombuffer(written(), np.uint8)
    num_refused = 0
    for _ in range(400):
        damaged = content.copy()
        damaged[rng.integers(0, len(content), 8)] = rng.integers(0, 256, 8)
        try:
            read_tflite(damaged.tobytes())
        except FormatError:
            num_refused += 1
    assert num_refused > 50
