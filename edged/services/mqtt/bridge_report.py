"""Log lines about an edge's bridge: counts at intervals, and at once what should be looked into."""

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
        self._without_id: Counter[str] = Counter()

    def written(self, num_records: int, num_bytes: int) -> None:
        """Kafka holds these records."""
        self.num_records += num_records
        self.bridged.records += num_records
        self.bridged.num_bytes += num_bytes

    def seen(self, device: str, sample_id: str, seen: Seen) -> None:
        """A sample with an id has come; `seen`: what is known of it."""
        self.bridged.duplicates += seen.is_duplicate
        if seen.has_restarted:
            self._lines.warning("mqtt.counter_restarted", device, device=device, id=sample_id)
        if seen.missing:
            self.bridged.missing += seen.missing
            self._missing[device] += seen.missing
        if seen.missing > 0:
            self._lines.warning("mqtt.gap", device, device=device, id=sample_id, missing=self._missing[device])

    def without_id(self, device: str, count: int) -> None:
        """Samples of a device that declares ids."""
        self._without_id[device] += count
        self._lines.warning("mqtt.id_missing", device, device=device, samples=self._without_id[device])

    def doubles(self, device: str, count: int) -> None:
        """`count` records of the device may be in Kafka twice now."""
        self.bridged.doubles += count
        self._doubles[device] += count
        self._lines.warning("mqtt.doubles", device, device=device, records=self._doubles[device])

    def undelivered(self, device: str, count: int, reason: str) -> None:
        """`count` receipts were not delivered."""
        self.bridged.receipts_undelivered += count
        self._lines.warning("mqtt.receipt_undelivered", device, device=device, receipts=count, reason=reason)

    def paused(self, device: str) -> None:
        """Kafka takes nothing: the device's connection is closed, and the broker keeps what it sends."""
        self._lines.warning("mqtt.paused", "", device=device)

    def write(self) -> None:
        """Write the line, if there is anything to report."""
        bridged, self.bridged = self.bridged, Bridged()
        counts = {each.name: getattr(bridged, each.name) for each in fields(bridged)}
        if any(counts.values()):
            num_bytes = counts.pop("num_bytes")
            logger().info("mqtt.bridged", **counts, bytes=num_bytes)
