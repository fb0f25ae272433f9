"""Writes a trained model as a .tflite file: float32, or int8 for devices where that is faster and a quarter as large.

The file computes probabilities: input "samples" float32 [batch, *sample shape], normalised as in training (uint8/255),
output "probabilities" float32 [batch, classes]; the batch is 1 and may be resized. An int8 model has the same
input and output: it quantises the samples, and the softmax is float32.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tflite

from edged.adapters.tflite.file import encode
from edged.adapters.tflite.int8 import quantise
from edged.adapters.tflite.lowering import SAMPLES, lower, steps
from edged.domain.counted import counted
from edged.domain.nn.params import Params, parameter_shapes
from edged.domain.nn.ranges import Range, output_ranges
from edged.domain.nn.spec import Dropout, LayerSpec, settings, shapes

_SOFTMAX = tflite.BuiltinOperator.SOFTMAX

LABELS = "edged.labels"
"""Name of the metadata with the labels, a JSON list in the order of the classes."""

LAYERS = "edged.layers"
"""Name of the metadata with the layers, a JSON list of [kind, settings]; weights are tensors by their names."""


def to_tflite(
    sample_shape: tuple[int, ...],
    layers: Sequence[LayerSpec],
    params: Params,
    *,
    labels: Sequence[str] | None,
    calibration: npt.NDArray[np.float32] | None = None,
    description: str = "A model trained by edged",
    metadata: Mapping[str, str] | None = None,
    below: bytes | None = None,
) -> bytes:
    """The file; the same arguments give the same bytes. Raises ValueError when they do not match.

    Without `labels` the file is no classifier: its output "outputs" is the last layer's, of any shape.

    With `calibration`, normalised samples [n, *sample shape], n ≥ 1, it computes in int8: values beyond the range
    of those samples are clipped. A few hundred are enough.

    With `below`, a file that `read_foreign` accepts, the layers continue from its output, and "samples" is its input.
    Only a TFLite runtime can run such a file, and `read_tflite` refuses it.
    """
    output_shape = shapes(sample_shape, layers)[-1]
    if {name: value.shape for name, value in params.items()} != parameter_shapes(sample_shape, layers):
        raise ValueError("the weights are not those of the layers")
    if labels is not None and output_shape != (len(labels),):
        raise ValueError(f"the model's outputs have shape {output_shape} for {counted(len(labels), 'label')}")
    graph = lower(sample_shape, layers, params)
    if calibration is not None:
        graph = quantise(graph, _ranges(sample_shape, layers, params, calibration))
    if labels is not None:
        graph.output = graph.add(_SOFTMAX, [graph.output], "probabilities", output_shape, {"Beta": 1.0})
    own_metadata = {}
    if below is None:
        layers_text = json.dumps([[layer.kind, settings(layer)] for layer in layers])
        own_metadata = {"min_runtime_version": "1.5.0", LAYERS: layers_text}
    if labels is not None:
        own_metadata[LABELS] = json.dumps(list(labels))
    output = "outputs" if labels is None else "probabilities"
    all_metadata = own_metadata | dict(metadata or {})
    return encode(graph, description=description, metadata=all_metadata, output=output, below=below)


def _ranges(
    sample_shape: tuple[int, ...], layers: Sequence[LayerSpec], params: Params, x: npt.NDArray[np.float32]
) -> dict[str, Range]:
    """The range of each tensor that `lower` makes of a step."""
    parts = [step for step in steps(layers) if not isinstance(step.layer, Dropout)]
    ranges = output_ranges(sample_shape, [(step.index, step.layer) for step in parts], params, x)
    return dict(zip([SAMPLES, *(step.name for step in parts)], ranges, strict=True))
