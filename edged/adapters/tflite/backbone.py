"""Frozen backbones: a trained model's first layers, read from a file, run, and joined with a head into one model.

In files that edged wrote, float32 or int8, the layers are known: with a head they are a model like any other, which
every runtime can run, numpy too. Of other files only the shapes are read: the head's operators are appended to theirs,
and only a TFLite runtime can run them. See also: `domain.nn` (training the head).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edged.access import why_refused
from edged.adapters.tflite.foreign import read_foreign
from edged.adapters.tflite.reader import is_own, read_tflite
from edged.adapters.tflite.runtime import load_features, load_foreign_features
from edged.adapters.tflite.writer import to_tflite
from edged.domain.nn.params import Params, parameter_shapes
from edged.domain.nn.spec import Dense, LayerSpec, shapes
from edged.domain.topology import BackboneFile
from edged.errors import FormatError, StorageError
from edged.files import read_regular
from edged.ports import FeatureExtractor

_MAX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class KnownBackbone:
    """The layers from samples to features, and their weights."""

    file: BackboneFile
    layers: tuple[LayerSpec, ...]
    params: Params

    def extractor(self, num_threads: int = 1) -> FeatureExtractor:
        """The features' computation on this machine: by a TFLite runtime if one works, else by numpy."""
        content = to_tflite(self.file.sample_shape, self.layers, self.params, labels=None)
        return load_features(content, num_threads)

    def join(self, head: Sequence[LayerSpec], params: Params, labels: Sequence[str]) -> bytes:
        """The .tflite file of the whole model: these layers, then `head` with its `params`."""
        moved: Params = {}
        for name, value in params.items():
            index, _, rest = name.partition(".")
            moved[f"{int(index) + len(self.layers)}.{rest}"] = value
        return to_tflite(self.file.sample_shape, (*self.layers, *head), self.params | moved, labels=labels)


@dataclass(frozen=True, slots=True)
class ForeignBackbone:
    """A file from another tool, of which only the shapes are known."""

    file: BackboneFile
    content: bytes

    def extractor(self, num_threads: int = 1) -> FeatureExtractor:
        """The file in a TFLite runtime. Raises FormatError when no runtime works here or none can run it."""
        return load_foreign_features(self.content, num_threads)

    def join(self, head: Sequence[LayerSpec], params: Params, labels: Sequence[str]) -> bytes:
        """As KnownBackbone.join: the file's unchanged content, then `head`."""
        return to_tflite(self.file.features, head, params, labels=labels, below=self.content)


FrozenBackbone = KnownBackbone | ForeignBackbone


def read_backbone(path: Path) -> FrozenBackbone:
    """The backbone in the file: all its layers, or of a classifier by edged those before the last dense layer.

    Raises StorageError when it cannot be read, FormatError when it computes no features or no layer would remain.
    """
    try:
        content = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {why_refused(path, error, reads=True)}") from error
    digest = hashlib.sha256(content).hexdigest()
    if not is_own(content):
        return ForeignBackbone(BackboneFile(*read_foreign(content), digest), content)
    read = read_tflite(content)
    layers = read.layers
    if read.labels is not None:
        layers = layers[: max((i for i, layer in enumerate(layers) if isinstance(layer, Dense)), default=0)]
    if not layers:
        raise FormatError(f"{path.name} has no layers before its last dense one")
    names = parameter_shapes(read.sample_shape, layers)
    return KnownBackbone(
        BackboneFile(read.sample_shape, shapes(read.sample_shape, layers)[-1], digest),
        layers,
        {name: read.params[name] for name in names},
    )
