"""The samples that a device has sent, or is about to, and that have no receipt yet: which of them is to be sent next.

A broker may acknowledge a sample and lose it, so the broker's word counts for nothing but room in its queue. Receipts
come in the order of sending; where one comes for a later sample, those sent before it were lost, or their receipts
were, and they are sent again. See also: `edged.device.mqtt`, which sends.
"""

from dataclasses import dataclass
from typing import Literal

from edged.domain.device.sample import Buffered, Position

_State = Literal["waiting", "sent", "taken", "settled"]


@dataclass(slots=True)
class _Flight:
    """`first`, `last`: the order of its first and last sending. "taken": by the broker, which may lose it."""

    buffered: Buffered
    state: _State = "waiting"
    first: int = 0
    last: int = 0


class Window:
    """At most `max_samples` samples, and `max_bytes` of payloads and one more."""

    def __init__(self, max_samples: int, max_bytes: int) -> None:
        self._max_samples, self._max_bytes = max_samples, max_bytes
        self._flights: dict[str, _Flight] = {}  # in the order of the buffer
        self._num_bytes = 0
        self._num_sent = 0
        self.num_settled = 0
        """Samples with a receipt, since the start."""

    def __len__(self) -> int:
        """Samples without a receipt, and those behind one of these."""
        return len(self._flights)

    @property
    def has_room(self) -> bool:
        return len(self._flights) < self._max_samples and self._num_bytes < self._max_bytes

    def add(self, buffered: Buffered) -> None:
        """The buffer's next sample."""
        self._flights[buffered.id] = _Flight(buffered)
        self._num_bytes += len(buffered.sample.payload)

    def send(self) -> Buffered | None:
        """The sample to be sent now, the first of those that are; None: there is none."""
        for flight in self._flights.values():
            if flight.state == "waiting":
                self._num_sent += 1
                flight.state, flight.last = "sent", self._num_sent
                flight.first = flight.first or self._num_sent
                return flight.buffered
        return None

    def taken(self, sample_id: str) -> None:
        """The broker has acknowledged it."""
        self._becomes(sample_id, "sent", "taken")

    def failed(self, sample_id: str) -> None:
        """It did not reach the broker, as far as is known."""
        self._becomes(sample_id, "sent", "waiting")

    def lost(self) -> None:
        """The broker may have lost all that it has taken."""
        for sample_id, flight in self._flights.items():
            flight.first = 0
            self._becomes(sample_id, "taken", "waiting")

    def probe(self) -> bool:
        """Nothing has come for long: the first that the broker has taken is sent again; whether there is one."""
        for sample_id, flight in self._flights.items():
            if flight.state == "taken":
                self._becomes(sample_id, "taken", "waiting")
                return True
        return False

    def settle(self, sample_id: str) -> Buffered | None:
        """Its receipt has come. None: it had one, or is none of these."""
        flight = self._flights.get(sample_id)
        if flight is None or flight.state == "settled":
            return None
        for other, each in self._flights.items():
            if each.last < flight.first:  # the receipt may be that of the first sending
                self._becomes(other, "taken", "waiting")
        flight.state = "settled"
        self.num_settled += 1
        return flight.buffered

    def drop(self, sample_id: str) -> None:
        """It is not sent any more, and gets no receipt."""
        if flight := self._flights.get(sample_id):
            flight.state = "settled"

    def passed(self) -> Position | None:
        """Forget the first samples as far as all have receipts; the place of the last of them, None: there are none."""
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
