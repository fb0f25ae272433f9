"""Predictions that have arrived for a device's own samples, each once, until its program takes them."""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Collection

from edged.domain.device.sample import series_of
from edged.domain.samples import prediction
from edged.domain.samples.prediction import Prediction
from edged.errors import FormatError
from edged.log import ThrottledLog

_MAX_KEPT = 10_000
"""Predictions that the program has not taken; of more, the oldest are dropped, and that is logged."""

_MAX_KNOWN = 1_000
"""Predictions that are recognised if the broker sends them again."""


class Inbox:
    """Of the device of this name; `series`: of the ids of its samples, which grow."""

    def __init__(self, device: str, series: Collection[str]) -> None:
        self._device = device
        self._series = series
        self._kept: deque[Prediction] = deque()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._num_dropped = 0
        self._lines = ThrottledLog()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self) -> Prediction:
        """The oldest."""
        return self._kept.popleft()

    def put(self, value: bytes, **place: int) -> None:
        """Keep a prediction for a sample of this device, unless it came before. `place`: in Kafka, for the log."""
        try:
            found = prediction.decode(value)
        except FormatError as error:
            self._lines.warning("sensor.prediction_skipped", None, **place, reason=str(error))
            return
        digest = hashlib.blake2b(value, digest_size=16).digest()
        if found.device != self._device or series_of(found.id) not in self._series or digest in self._known:
            return
        self._known[digest] = None
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        self._kept.append(found)
        if len(self._kept) > _MAX_KEPT:
            self._kept.popleft()
            self._num_dropped += 1
            self._lines.warning("sensor.predictions_dropped", None, total=self._num_dropped)
