"""Finished data sets, and the decoding of images."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edged.domain.topology import Codec, Dtype


class ImageDecoder(Protocol):
    """Compressed images to pixels."""

    def decode(self, payload: bytes, codec: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Pixels of `payload` (codec "jpeg" or "png") as uint8 of `shape` (height, width, channels).

        The image is converted to the shape's channels and scaled to its size where they differ. Sizes are checked
        before any pixel is decoded. Raises RejectedRecord.
        """


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a data set. `payload` is in `codec`: "raw" (the array's bytes, C order), "jpeg" or "png".

    `label` is None in data sets without labels.
    """

    label: str | None
    codec: Codec
    payload: bytes


class Dataset(Protocol):
    """A finished, labelled set of samples with random access, from which a sensor replays. Synchronous."""

    @property
    def name(self) -> str:
        """The name for messages."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that items may have, in the data set's own order; empty: there are none."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of every raw payload; None when items are images of any size."""

    @property
    def dtype(self) -> Dtype:
        """The dtype of raw payloads (little-endian), and of decoded images."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits; never empty."""

    def count(self, split: str) -> int:
        """The number of items in the split. Raises KeyError for an unknown split."""

    def sample(self, split: str, index: int) -> Item:
        """Item `index` of the split, always the same. Raises IndexError, StorageError, FormatError."""
