"""The image decoder of nodes, which have Pillow in memory only where there are images. See also: `images`."""

import numpy as np
import numpy.typing as npt

from edged.domain.topology import Topology
from edged.ports import ImageDecoder


class ImagesOnDemand:
    """A `ports.ImageDecoder`: Pillow's, loaded at once if a device of the site sends images, else with the first image.

    One may come all the same: in a data set that was imported, or of a device that a reload brings. Any thread may
    call it.
    """

    def __init__(self, topology: Topology) -> None:
        if any(device.codec != "raw" for device in topology.iot):
            _pillow()

    def decode(self, payload: bytes, codec: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """See `images.PillowDecoder`."""
        return _pillow().decode(payload, codec, shape)


def _pillow() -> ImageDecoder:
    from edged.adapters.images import PillowDecoder  # noqa: PLC0415 - as this module is for

    return PillowDecoder()
