"""Converts the items of a data set to what a device sends or the archive keeps: the stream's shape and dtype, a codec.

Payloads are passed through where possible; images are scaled only where they could not be kept as they are. Each image
is decoded, also if it is passed through: what no edge can decode is found here.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.adapters import images
from edged.domain.nn.spec import shape_text
from edged.domain.samples import codec
from edged.domain.samples.rules import MAGIC
from edged.domain.samples.sample import MAX_BYTES
from edged.domain.topology import Device, Stream
from edged.errors import FormatError
from edged.ports import Dataset, ImageDecoder, Item

_IMAGE_CHANNELS = (1, 3, 4)


class Transcoder:
    """Converts items of `dataset` to the payloads of `device`. Stateless: any thread may call it."""

    def __init__(self, dataset: Dataset, device: Device, stream: Stream, decoder: ImageDecoder) -> None:
        """Raises FormatError when the data set's items can never be the device's samples."""
        self._dataset = dataset
        self._codec = device.codec
        self._stream = stream
        self._decoder = decoder
        shape = dataset.shape
        check_images(dataset, stream)
        if shape is not None and not self._fits(shape) and not self._scalable(shape):
            raise FormatError(
                f"{dataset.name} holds samples of {shape_text(shape)} {dataset.dtype}, "
                f"the stream {stream.name} wants {shape_text(stream.shape)} {stream.dtype}"
            )

    def payload(self, item: Item) -> bytes:
        """The item as the device would send it. Raises FormatError; RejectedRecord for what an edge would refuse."""
        payload = self._payload(item)
        codec.check_payload(payload, self._stream, self._codec)
        return payload

    def _payload(self, item: Item) -> bytes:
        sample = self._decoded(item)
        if item.codec == self._codec != "raw" and len(item.payload) <= MAX_BYTES:
            return item.payload
        if self._codec == "raw":
            return self._cast(sample).tobytes()
        return images.encode(sample, self._codec)

    def _decoded(self, item: Item) -> npt.NDArray[Any]:
        """The item as an array; of the stream's shape, unless the device's codec lets the edge scale it."""
        if item.codec != "raw":
            return self._decoder.decode(item.payload, item.codec, self._stream.shape)
        assert self._dataset.shape is not None, "raw items have a shape"
        sample = np.frombuffer(item.payload, np.dtype(self._dataset.dtype).newbyteorder("<"))
        if self._fits(self._dataset.shape):
            return sample.reshape(self._stream.shape)
        image = images.encode(sample.reshape(self._dataset.shape), "png")
        return self._decoder.decode(image, "png", self._stream.shape)

    def _cast(self, sample: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if sample.dtype == self._stream.dtype:
            return sample.astype(codec.raw_dtype(self._stream), copy=False)
        if self._stream.dtype == "float32":
            return codec.normalise(sample).astype(codec.raw_dtype(self._stream), copy=False)
        whole = sample.astype(np.uint8)
        if not np.array_equal(whole, sample):
            raise FormatError(f"{self._dataset.name}: the stream {self._stream.name} wants whole numbers from 0 to 255")
        return whole

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return math.prod(shape) == math.prod(self._stream.shape)

    def _scalable(self, shape: tuple[int, ...]) -> bool:
        both = (shape, self._stream.shape)
        return self._dataset.dtype == "uint8" and all(len(s) == 3 and s[2] in _IMAGE_CHANNELS for s in both)


def check_images(dataset: Dataset, stream: Stream) -> None:
    """Raise FormatError when the data set's items are images, and samples of the stream cannot be."""
    shape = stream.shape
    if dataset.shape is None and (len(shape) not in {2, 3} or (*shape, 1)[2] not in _IMAGE_CHANNELS):
        raise FormatError(
            f"{dataset.name} holds images, and samples of the stream {stream.name} are {shape_text(shape)}: "
            "not height, width, and 1, 3 or 4 channels"
        )


class ArchiveForm:
    """Makes items of a data set what the archive keeps of `stream`. Stateless: any thread may call it."""

    def __init__(self, stream: Stream, decoder: ImageDecoder) -> None:
        self._stream = stream
        self._decoder = decoder

    def __call__(self, item: Item) -> Item:
        """The item, once it was decoded; scaled to the stream's shape, as a PNG, if edges could not read it as it is.

        Raises RejectedRecord for an image that cannot be decoded.
        """
        if item.codec == "raw":
            return item
        pixels = self._decoder.decode(item.payload, item.codec, self._stream.shape)
        if item.codec in MAGIC and len(item.payload) <= MAX_BYTES:
            return item
        return Item(item.label, "png", images.encode(pixels, "png"))
