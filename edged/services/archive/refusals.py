"""Names and counts the samples that a border of the archive has left out."""

import time
from collections.abc import Sequence

from edged.domain.samples import border
from edged.domain.samples.address import ArchivedAddress, DeviceAddress
from edged.domain.samples.border import Refused
from edged.log import Throttle, logger


class RefusalLog:
    """One line for each block with refused samples; of one source, at most one in 10 s. From any one thread at a time.

    `num_samples`: refused so far.
    """

    def __init__(self) -> None:
        self._throttle = Throttle()
        self.num_samples = 0

    def add(self, stream: str, source: str, offset: int, refused: Sequence[Refused]) -> None:
        """Take note of what was left out of the block."""
        if not refused:
            return
        self.num_samples += len(refused)
        suppressed = self._throttle.pass_on((stream, source), time.monotonic())
        if suppressed is not None:
            first = refused[0]
            logger().error(
                "archive.refused",
                address=str(ArchivedAddress(stream, source, offset, first.row)),
                device=str(DeviceAddress(stream, first.device, first.partition, first.offset)),
                samples=len(refused),
                reasons=border.reasons(refused),
                detail=first.detail,
                suppressed=suppressed,
            )
