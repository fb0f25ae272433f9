"""A gate that decodes the gradients passing through it, and holds them by step."""

import contextlib
import math
import struct
from collections.abc import Iterator

from aiokafka.record.memory_records import MemoryRecords

from edged.domain.group import records as exchange_records
from edged.domain.group.records import Part, Update
from edged.errors import FormatError
from tests.support.brokers import Broker, free_port
from tests.support.proxy import Gate


class GradientGate(Gate):
    """Holds gradients and updates from a step, or a part of it, on; everything else passes.

    So does everything from a client that calls itself OUTSIDER. Open at first.
    """

    OUTSIDER = "outsider"

    def __init__(self, target: int, topics: bytes, port: int | None = None) -> None:
        super().__init__(target, topics, port)
        self._from: tuple[float, int] = (math.inf, 0)

    def hold_from(self, step: float, part: int = 0) -> None:
        """Hold records from this part of this step on; release held ones before it."""
        with self._lock:
            self._from = (step, part)
        self.let_pass(math.inf)

    def open(self) -> None:
        self.hold_from(math.inf)

    def _may_pass(self, request: bytes) -> bool:
        client, batch = _produced(request)
        return client == self.OUTSIDER or all((each.step, each.part) < self._from for each in _parts(batch))


@contextlib.contextmanager
def gated(kind: type[Broker]) -> Iterator[tuple[Broker, GradientGate]]:
    """A broker whose clients all connect through a gate for writes to groups' logs."""
    port, gate_port = free_port(), free_port()
    with GradientGate(port, b".train.", gate_port) as gate, kind(port=port, advertised=gate_port) as broker:
        yield broker, gate


def _parts(batch: bytes) -> Iterator[Part | Update]:
    records = MemoryRecords(batch)
    while records.has_next():
        for record in records.next_batch():
            try:
                decoded = exchange_records.decode(record.value)
            except FormatError:
                continue
            if isinstance(decoded, Part | Update):
                yield decoded


def _produced(request: bytes) -> tuple[str, bytes]:
    """Client and record batch of a produce request (version 3 to 8) for one partition, as edged's are."""
    client, at = _text(request, 12)
    _transaction, at = _text(request, at)
    _topic, at = _text(request, at + 10)  # after acks, timeout and the number of topics
    return client, request[at + 12 :]  # after the number of partitions, the partition and the batch's length


def _text(request: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", request, at)
    end = at + 2 + max(length, 0)
    return request[at + 2 : end].decode(), end
