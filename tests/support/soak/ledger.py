"""What was published in a soak, by number, and whether the site archived and predicted each once.

A sample's number is in its payload. Its identity (device, incarnation, partition, offset) is known from the archive,
and is what predictions and dead letters name.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from edged.domain.archive.snapshot import BlockRef
from edged.domain.topology import Topology
from tests.support.archive_samples import open_archive
from tests.support.soak.site_file import DEVICES, SERVED, STREAM

_SAMPLE_BYTES = 64
_MOST_NAMED = 20
"""Numbers in a report."""


_PORTION = 500
"""Records."""


class Identity(NamedTuple):
    """A record of a device."""

    device: str
    incarnation: str
    partition: int
    offset: int


class Numbered(NamedTuple):
    """A sample to be published."""

    number: int
    payload: bytes
    label: str


class Ledger:
    """Numbers by what became of them: acknowledged, in doubt (either is right), or taken back."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.device_of: dict[int, str] = {}
        """Of each that was acknowledged."""
        self.edge_of = dict(DEVICES)
        self.in_doubt: set[int] = set()
        self.poison: Counter[str] = Counter()
        """Records that must become dead letters, by edge."""

    def draw(self, number: int) -> Sequence[Numbered]:
        """So many new samples, which nobody has published yet."""
        return [_sample(next(self._numbers)) for _ in range(number)]

    def acknowledged(self, device: str, samples: Iterable[Numbered]) -> None:
        for each in samples:
            self.device_of[each.number] = device
            self.in_doubt.discard(each.number)

    def maybe(self, samples: Iterable[Numbered]) -> None:
        """Whoever published them does not know whether they are in the log."""
        self.in_doubt.update(each.number for each in samples)


def _sample(number: int) -> Numbered:
    payload = number.to_bytes(8, "big") + bytes((number * i) & 0xFF for i in range(_SAMPLE_BYTES - 8))
    return Numbered(number, payload, "odd" if number % 2 else "even")


class Found:
    """What the archive's files and the topics hold, read on with each call; the archive's and Kafka's own readers."""

    def __init__(self, topology: Topology, bootstrap: str) -> None:
        self._store = open_archive(topology.archive[0].url)
        self._blocks: set[BlockRef] = set()
        self.numbers: Counter[int] = Counter()
        """Archived samples."""
        self.archived: Counter[Identity] = Counter()
        self.number_of: dict[Identity, int] = {}
        edges = [edge.name for edge in topology.edges]
        self._predictions = _Topics(bootstrap, [topology.predictions_topic(SERVED, "group")])
        self._letters = _Topics(bootstrap, [topology.dead_letters_topic(edge) for edge in edges])
        self.predicted: Counter[Identity] = Counter()
        self.letters: Counter[Identity] = Counter()

    def read_on(self) -> None:
        """Take what has come since the last call. Raises what the readers raise while the site suffers."""
        self._read_archive()
        for value, _headers in self._predictions.read_on():
            read = json.loads(value)
            self.predicted[Identity(read["device"], read["incarnation"], read["partition"], read["offset"])] += 1
        for _value, headers in self._letters.read_on():
            named = headers["device"], headers["incarnation"], int(headers["partition"]), int(headers["offset"])
            self.letters[Identity(*named)] += 1

    def close(self) -> None:
        self._predictions.close()
        self._letters.close()

    def _read_archive(self) -> None:
        snapshot = self._store.snapshot(STREAM)
        refs = (snapshot.ref(block) for block in range(snapshot.num_blocks))
        new = [ref for ref in refs if ref not in self._blocks and not ref.source.startswith("_")]
        for ref, pack in self._store.read(STREAM, new):
            self._blocks.add(ref)
            for each in pack.samples:
                identity = Identity(each.device, each.incarnation, each.partition, each.offset)
                number = int.from_bytes(each.payload[:8], "big")
                self.numbers[number] += 1
                self.archived[identity] += 1
                self.number_of[identity] = number


class _Topics:
    """The first partition of some topics, as librdkafka reads them."""

    def __init__(self, bootstrap: str, topics: Sequence[str]) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap, "group.id": "soak", "enable.auto.commit": False, "log_level": 0,
                "auto.offset.reset": "earliest", "isolation.level": "read_committed", "reconnect.backoff.max.ms": 1000,
            }
        )  # fmt: skip
        self._consumer.assign([TopicPartition(topic, 0, 0) for topic in topics])

    def read_on(self) -> Iterable[tuple[bytes, Mapping[str, str]]]:
        """Value and headers of the records that are there."""
        is_full = True
        while is_full:  # else more come than are read
            messages = self._consumer.consume(_PORTION, timeout=0.3)
            is_full = len(messages) == _PORTION
            for message in messages:
                if message.error() is None:
                    headers: Mapping[str, Any] = dict(message.headers() or [])
                    yield (
                        message.value() or b"",
                        {key: (value or b"").decode(errors="replace") for key, value in headers.items()},
                    )

    def close(self) -> None:
        self._consumer.close()


def never(ledger: Ledger, found: Found) -> list[str]:
    """What must not be at any moment, and is: each kind in a sentence."""
    known = ledger.device_of.keys() | ledger.in_doubt
    return [
        f"{what}: {_named(them)}"
        for what, them in {
            "archived twice": [number for number, times in found.numbers.items() if times > 1],
            "archived, and never published": [number for number in found.numbers if number not in known],
            "predicted twice": [_tell(found, each) for each, times in found.predicted.items() if times > 1],
        }.items()
        if them
    ]


def missing(ledger: Ledger, found: Found, numbers: Iterable[int] | None = None) -> list[str]:
    """What is still on its way, or lost: each kind in a sentence. `numbers`: of these alone; None: of all there is."""
    wanted = set(ledger.device_of) if numbers is None else set(numbers)
    served = [each for each in found.archived if ledger.edge_of[each.device] == SERVED]
    archived = [each for each in served if numbers is None or found.number_of[each] in wanted]
    gaps: dict[str, list[Any]] = {
        "published, not archived": [number for number in wanted if number not in found.numbers],
        "archived, not predicted": [_tell(found, each) for each in archived if each not in found.predicted],
    }
    if numbers is None:
        letters, poisoned = len(found.letters), sum(ledger.poison.values())
        gaps |= {
            "predicted, not archived": [_tell(found, each) for each in found.predicted if each not in found.archived],
            "dead letters": [] if letters == poisoned else [f"{letters} of {poisoned}"],
        }
    return [f"{what}: {_named(them)}" for what, them in gaps.items() if them]


def _tell(found: Found, identity: Identity) -> Any:
    return (found.number_of.get(identity), *identity)


def _named(them: Sequence[Any]) -> str:
    more = f" and {len(them) - _MOST_NAMED} more" if len(them) > _MOST_NAMED else ""
    return f"{len(them)} ({', '.join(map(str, sorted(them, key=str)[:_MOST_NAMED]))}{more})"
