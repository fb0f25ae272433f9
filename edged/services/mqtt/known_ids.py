"""The ids of one device's samples that came before: those that Kafka holds, and those that its topic refused.

Read at a start from the headers in the tail of the device's topic. See also: `domain.mqtt.identity`.
"""

from collections import OrderedDict

from edged.domain.mqtt import identity
from edged.domain.samples import returned
from edged.domain.topology import Device
from edged.errors import RejectedRecord
from edged.ports import Log, Record, TopicPartition
from edged.reading import newest
from edged.services.mqtt.bridge_report import BridgeReport

_LOOK_BACK = 4
"""Records that are looked at, for each id wanted: those that a device wrote before it declared ids have none."""

_MAX_REFUSED = 1024
"""Refused samples whose reason is remembered: a device that got no receipt sends its sample again."""


class KnownIds:
    """Of one device. A sample without an id is always new, and all are of a device that declares none."""

    def __init__(self, device: Device, report: BridgeReport) -> None:
        self._device = device
        self._report = report
        self._ledger = identity.ledger(device.id)
        self._refused: OrderedDict[str, str] = OrderedDict()

    async def fill(self, log: Log, partition: TopicPartition) -> None:
        """Read the topic's tail, again if it was read before. Waits while Kafka is away."""
        self._ledger = identity.ledger(self._device.id)
        if count := identity.num_ids_to_read(self._device.id):
            for sample_id in await newest(log, partition, _id_of, count=count, within=_LOOK_BACK * count):
                try:
                    self._ledger.see(sample_id)
                except RejectedRecord:
                    continue  # written by another program, or when the device declared ids of another kind

    def check(self, sample_id: str) -> None:
        """Raise RejectedRecord(wrong_id) unless it is an id of the declared kind."""
        if sample_id:
            self._ledger.check(sample_id)

    def is_known(self, sample_id: str) -> bool:
        """Whether the sample came before; it is known from now on."""
        if not sample_id:
            return False
        seen = self._ledger.see(sample_id)
        self._report.seen(self._device.name, sample_id, seen)
        return seen.is_duplicate

    def refuse(self, sample_id: str, reason: str) -> None:
        """The sample is in the dead-letter topic, and not in its own."""
        if self._device.id != "none":
            self._refused[sample_id] = reason
            if len(self._refused) > _MAX_REFUSED:
                self._refused.popitem(last=False)

    def refusal(self, sample_id: str) -> str:
        """Why a known sample was refused; empty when Kafka holds it."""
        return self._refused.get(sample_id, "")


def _id_of(record: Record) -> str | None:
    return returned.sample_id(record.headers) or None
