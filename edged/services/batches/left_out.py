"""Names and counts the samples that a job leaves out of training, each by its address."""

import asyncio

from edged.domain.samples.address import SampleAddress
from edged.log import Throttle, logger

LOSS_NOT_FINITE = "loss_not_finite"
"""The reason where the numbers are finite and what the weights make of them is not, while it is for others."""

_LINES = 10
"""Of each reason, in 10 s."""


class LeftOut:
    """`num_samples`: left out so far, each as often as it was drawn."""

    def __init__(self) -> None:
        self._throttle = Throttle(limit=_LINES)
        self.num_samples = 0

    def add(self, address: SampleAddress, reason: str, detail: str = "") -> None:
        """The sample is left out."""
        self.num_samples += 1
        suppressed = self._throttle.pass_on(reason, asyncio.get_running_loop().time())
        if suppressed is not None:
            logger().warning(
                "train.left_out", address=str(address), reason=reason, detail=detail, suppressed=suppressed
            )
