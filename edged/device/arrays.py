"""Arrays as payloads of a stream: what loads numpy, and for images Pillow."""

from typing import Any

import numpy.typing as npt

from edged.domain.counted import counted
from edged.domain.samples import codec
from edged.domain.topology import Codec, Stream
from edged.errors import RejectedRecord


def payload_of(array: npt.NDArray[Any], stream: Stream, of_codec: Codec) -> bytes:
    """The array in the device's codec. Raises RejectedRecord for one that is no sample of the stream."""
    if of_codec != "raw":
        if array.dtype != "uint8" or array.ndim != 3:
            raise RejectedRecord(
                "not_an_image", f"{array.dtype} with {counted(array.ndim, 'axis')}; pixels are uint8 with 3"
            )
        from edged.adapters import images  # noqa: PLC0415 - Pillow, which raw arrays do not need

        return images.encode(array, of_codec)
    if array.shape != stream.shape or array.dtype != stream.dtype:
        wanted = f"{stream.shape} {stream.dtype}"
        raise RejectedRecord("wrong_length", f"{array.shape} {array.dtype}; the stream has {wanted}")
    return array.astype(codec.raw_dtype(stream), copy=False).tobytes()
