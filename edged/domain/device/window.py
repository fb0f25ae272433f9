"""The window of samples that a device sends before their receipts: which of them is to be sent next, or again.

A broker may acknowledge a sample and lose it, so its acknowledgement only means that it has room. Receipts come in the
order of sending: if one comes for a later sample, those sent before it were lost, or their receipts were, and they are
sent again. See also: `edged.device.mqtt`, which sends.
"""

from dataclasses import dataclass
from typing import Literal

from edged.domain.device.sample import Buffered, Position

_State = Literal["waiting", "sent", "taken", "settled"]


@dataclass(slots=True)
class _Flight:
    """`first`, `last`, `refused`: the numbers of its first and last sending, and of the first that the broker refused.

    "taken": by the broker, which may lose it.
    """

    buffered: Buffered
    state: _State = "waiting"
    first: int = 0
    last: int = 0
    refused: int = 0


class Window:
    """Holds `max_samples` samples; none is added to `max_bytes` of payloads or more."""

    def __init__(self, max_samples: int, max_bytes: int) -> None:
        self._max_samples, self._max_bytes = max_samples, max_bytes
        self._flights: dict[str, _Flight] = {}  # in the order of the buffer
        self._num_bytes = 0
        self._num_sent = self._settled_to = 0
        self.num_settled = 0
        """Samples with a receipt, since the start."""

    def __len__(self) -> int:
        """Samples without a receipt, and those after one of these."""
        return len(self._flights)

    @property
    def has_room(self) -> bool:
        return len(self._flights) < self._max_samples and self._num_bytes < self._max_bytes

    def add(self, buffered: Buffered) -> None:
        """Add the buffer's next sample."""
        self._flights[buffered.id] = _Flight(buffered)
        self._num_bytes += len(buffered.sample.payload)

    def send(self) -> Buffered | None:
        """The first sample that is to be sent now; None if there is none. It counts as sent."""
        for flight in self._flights.values():
            if flight.state == "waiting":
                self._num_sent += 1
                flight.state, flight.last = "sent", self._num_sent
                flight.first = flight.first or self._num_sent
                return flight.buffered
        return None

    def taken(self, sample_id: str) -> None:
        """The broker has acknowledged the sample."""
        self._becomes(sample_id, "sent", "taken")

    def failed(self, sample_id: str) -> None:
        """The sample did not reach the broker, as far as is known."""
        self._becomes(sample_id, "sent", "waiting")

    def lost(self) -> None:
        """The broker may have lost all samples that it has taken."""
        for sample_id, flight in self._flights.items():
            flight.first = 0
            self._becomes(sample_id, "taken", "waiting")

    def probe(self) -> bool:
        """After a long silence: send the first sample again that the broker has taken. Returns whether there is one."""
        for sample_id, flight in self._flights.items():
            if flight.state == "taken":
                self._becomes(sample_id, "taken", "waiting")
                return True
        return False

    def settle(self, sample_id: str) -> Buffered | None:
        """The sample's receipt has come. Returns the sample; None if it had one, or is not in the window."""
        flight = self._flights.get(sample_id)
        if flight is None or flight.state == "settled":
            return None
        for other, each in self._flights.items():
            if each.last < flight.first:  # the receipt may be that of the first sending
                self._becomes(other, "taken", "waiting")
        flight.state = "settled"
        self._settled_to = max(self._settled_to, flight.first)
        self.num_settled += 1
        return flight.buffered

    def refused(self, sample_id: str) -> bool:
        """The broker refuses the sample. Returns whether for good: it holds up others, and it takes those behind it."""
        flight = self._flights[sample_id]
        if 0 < flight.refused < self._settled_to and not self.has_room:
            return True
        flight.refused = flight.refused or flight.last
        return False

    def drop(self, sample_id: str) -> None:
        """Give the sample up: it is not sent again, and needs no receipt."""
        if flight := self._flights.get(sample_id):
            flight.state = "settled"

    def passed(self) -> Position | None:
        """Remove the first samples as far as all have receipts. Returns the position of the last of them, if any."""
        position = None
        while self._flights and next(iter(self._flights.values())).state == "settled":
            buffered = self._flights.pop(next(iter(self._flights))).buffered
            self._num_bytes -= len(buffered.sample.payload)
            position = buffered.position
        return position

    def _becomes(self, sample_id: str, before: _State, after: _State) -> None:
        flight = self._flights.get(sample_id)
        if flight is not None and flight.state == before:
            flight.state = after
