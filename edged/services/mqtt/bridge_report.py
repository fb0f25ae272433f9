"""What an edge's bridge did, in the log: a line every so often, and at once what somebody should look at."""

from collections import Counter
from dataclasses import dataclass, fields

from edged.domain.mqtt.identity import Seen
from edged.log import ThrottledLog, logger


@dataclass(slots=True)
class Bridged:
    """Counts since the last line; `records` and `num_bytes`: written to Kafka."""

    records: int = 0
    num_bytes: int = 0
    packs: int = 0
    duplicates: int = 0
    doubles: int = 0
    rejected: int = 0
    retained: int = 0
    missing: int = 0
    receipts: int = 0
    receipts_undelivered: int = 0


class BridgeReport:
    """Of all bridges of one edge."""

    def __init__(self) -> None:
        self.bridged = Bridged()
        self.num_records = 0
        """Since the start."""
        self._lines = ThrottledLog()
        self._missing: Counter[str] = Counter()
        self._doubles: Counter[str] = Counter()

    def written(self, num_records: int, num_bytes: int) -> None:
        """Kafka holds them."""
        self.num_records += num_records
        self.bridged.records += num_records
        self.bridged.num_bytes += num_bytes

    def seen(self, device: str, sample_id: str, seen: Seen) -> None:
        """The ledger's word on an id of the device."""
        self.bridged.duplicates += seen.is_duplicate
        if seen.has_restarted:
            self._lines.warning("mqtt.counter_restarted", device, device=device, id=sample_id)
        if seen.missing:
            self.bridged.missing += seen.missing
            self._missing[device] += seen.missing
        if seen.missing > 0:
            self._lines.warning("mqtt.gap", device, device=device, id=sample_id, missing=self._missing[device])

    def doubles(self, device: str, count: int) -> None:
        """Records that may be in Kafka twice now."""
        self.bridged.doubles += count
        self._doubles[device] += count
        self._lines.warning("mqtt.doubles", device, device=device, records=self._doubles[device])

    def undelivered(self, device: str, count: int, reason: str) -> None:
        """Receipts that nobody got."""
        self.bridged.receipts_undelivered += count
        self._lines.warning("mqtt.receipt_undelivered", device, device=device, receipts=count, reason=reason)

    def paused(self, device: str) -> None:
        """Kafka takes nothing: the broker keeps what the device sends."""
        self._lines.warning("mqtt.paused", "", device=device)

    def write(self) -> None:
        """The line, if there is anything to say."""
        bridged, self.bridged = self.bridged, Bridged()
        counts = {each.name: getattr(bridged, each.name) for each in fields(bridged)}
        if any(counts.values()):
            num_bytes = counts.pop("num_bytes")
            logger().info("mqtt.bridged", **counts, bytes=num_bytes)
