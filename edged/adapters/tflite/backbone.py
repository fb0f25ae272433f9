"""A trained model whose first layers compute features: read from its file, run, and joined with a head into one model.

Of the files that edged wrote, in float32 or int8, the layers are known: together with a head they are a model like any
other, which every runtime takes, numpy too. Of other files only the shapes are looked at: a head's operators are put
behind those that are there, and it takes a TFLite runtime to run them. Training the head is not seen here.
"""

import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edged.adapters.tflite.foreign import read_foreign
from edged.adapters.tflite.reader import is_own, read_tflite
from edged.adapters.tflite.runtime import load_features, load_foreign_features
from edged.adapters.tflite.writer import to_tflite
from edged.domain.nn.params import Params, parameter_shapes
from edged.domain.nn.spec import Dense, LayerSpec, shapes
from edged.domain.topology import BackboneFile
from edged.errors import FormatError, StorageError
from edged.ports import FeatureExtractor

_MAX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class KnownBackbone:
    """The layers from samples to features, and their weights."""

    file: BackboneFile
    layers: tuple[LayerSpec, ...]
    params: Params

    def extractor(self, num_threads: int = 1) -> FeatureExtractor:
        """What computes the features here: a TFLite runtime if one works, else numpy."""
        content = to_tflite(self.file.sample_shape, self.layers, self.params, labels=None)
        return load_features(content, num_threads)

    def join(self, head: Sequence[LayerSpec], params: Params, labels: Sequence[str]) -> bytes:
        """The .tflite file of the whole model: this, and `head` with its `params` on top."""
        moved: Params = {}
        for name, value in params.items():
            index, _, rest = name.partition(".")
            moved[f"{int(index) + len(self.layers)}.{rest}"] = value
        return to_tflite(self.file.sample_shape, (*self.layers, *head), self.params | moved, labels=labels)


@dataclass(frozen=True, slots=True)
class ForeignBackbone:
    """A file that computes features somehow."""

    file: BackboneFile
    content: bytes

    def extractor(self, num_threads: int = 1) -> FeatureExtractor:
        """The file in a TFLite runtime. Raises FormatError when none works here, or none that can run it."""
        return load_foreign_features(self.content, num_threads)

    def join(self, head: Sequence[LayerSpec], params: Params, labels: Sequence[str]) -> bytes:
        """As KnownBackbone.join; the file's content as it is, and behind it `head`."""
        return to_tflite(self.file.features, head, params, labels=labels, below=self.content)


FrozenBackbone = KnownBackbone | ForeignBackbone


def read_backbone(path: Path) -> FrozenBackbone:
    """The backbone in the file: all of it, but of a classifier of edged's only what is before the last dense layer.

    Raises StorageError when it cannot be read, FormatError when it does not give features or nothing would be left.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
            raise FormatError(f"{path.name} is no regular file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise FormatError(f"{path.name} is larger than 256 MiB")
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
