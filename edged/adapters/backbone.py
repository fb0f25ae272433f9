"""A trained model whose first layers compute features: read from its file, run, and joined with a head into one model.

Only files that edged wrote can be a backbone, in float32 or int8: their layers are known, so that backbone and head
become one model.tflite for the companion, which every runtime takes, numpy too. Training the head is not seen here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edged.adapters.tflite import load_features
from edged.adapters.tflite_reader import read_tflite
from edged.adapters.tflite_writer import to_tflite
from edged.domain.nn.params import Params, parameter_shapes
from edged.domain.nn.spec import Dense, LayerSpec, shapes
from edged.domain.topology import BackboneFile
from edged.errors import FormatError, StorageError
from edged.ports import FeatureExtractor

_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class FrozenBackbone:
    """The layers from samples to features, and their weights."""

    file: BackboneFile
    layers: tuple[LayerSpec, ...]
    params: Params

    def extractor(self, num_threads: int = 1) -> FeatureExtractor:
        """What computes the features here: a TFLite runtime if one works, else numpy."""
        content = to_tflite(self.file.sample_shape, self.layers, self.params, labels=None)
        return load_features(content, num_threads)

    def join(self, head: Sequence[LayerSpec], params: Params) -> tuple[tuple[LayerSpec, ...], Params]:
        """The layers and weights of the whole model: this, and `head` with its `params` on top."""
        moved: Params = {}
        for name, value in params.items():
            index, _, rest = name.partition(".")
            moved[f"{int(index) + len(self.layers)}.{rest}"] = value
        return (*self.layers, *head), self.params | moved


def read_backbone(path: Path) -> FrozenBackbone:
    """The backbone in the file: all of its layers, or of a classifier those before the last dense one.

    Raises StorageError when it cannot be read, FormatError when edged did not write it or nothing would be left.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise FormatError(f"{path.name} is larger than 256 MiB")
    read = read_tflite(content)
    layers = read.layers
    if read.labels is not None:
        layers = layers[: max((i for i, layer in enumerate(layers) if isinstance(layer, Dense)), default=0)]
    if not layers:
        raise FormatError(f"{path.name} has no layers before its last dense one")
    names = parameter_shapes(read.sample_shape, layers)
    return FrozenBackbone(
        BackboneFile(read.sample_shape, shapes(read.sample_shape, layers)[-1], hashlib.sha256(content).hexdigest()),
        layers,
        {name: read.params[name] for name in names},
    )
