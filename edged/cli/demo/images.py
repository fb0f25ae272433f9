"""The images of the demo: which are imported for training, which for testing, and which the devices publish.

Import and sensor go through a data set in the same order, so that each takes what the other leaves. Of what cannot be
decoded the import leaves out its part, and a device goes on to the next one; each has as many good ones as it needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edged.adapters.datasets.registry import Dataset, open_dataset
from edged.adapters.images import PillowDecoder
from edged.cli.demo.topology_text import IMAGE_SHAPE
from edged.domain.samples.shuffle import shuffled
from edged.errors import FormatError, RejectedRecord, StorageError
from edged.ports import HELD_OUT, ImageDecoder

_TEST_FRACTION = 0.1
"""Held out of a data set that is not divided."""


@dataclass(frozen=True, slots=True)
class DemoImages:
    """An open data set and its division. `num_held_out`: items before those for training, imported for testing.

    `begins`: for each device, the place of its first item in the order of the training split.
    """

    spec: str
    dataset: Dataset
    split: str
    num_training: int
    num_held_out: int
    begins: Sequence[int]
    follow_links: bool = False

    def import_arguments(self) -> tuple[str, ...]:
        """The arguments of `edged archive import`: all but what the devices publish."""
        fraction = str(_TEST_FRACTION if self.num_held_out else 0)
        return (*self._spec, "--test-fraction", fraction, "--limit", str(self.num_training), "--json")

    def publication(self, device: int) -> tuple[str, ...]:
        """The arguments of the `edged sensor` with this number."""
        return (*self._spec, "--split", self.split, "--shuffle", "0", "--skip", str(self.begins[device]))

    @property
    def _spec(self) -> tuple[str, ...]:
        return ("--from", self.spec, *(["--follow-links"] if self.follow_links else []))


def open_images(spec: str, devices: int, live: int, *, follow_links: bool = False) -> DemoImages:
    """The data set `spec`, with `live` good samples left to each device.

    Raises FormatError or StorageError with the reason why the demo cannot be shown with it.
    """
    dataset = open_dataset(spec, follow_links=follow_links)
    if not dataset.labels:
        raise FormatError(f"{spec} has no labels to train on: the demo wants a folder for each class")
    if dataset.shape is not None and (len(dataset.shape) != 3 or dataset.dtype != "uint8"):
        raise FormatError(f"{spec} holds {list(dataset.shape)} {dataset.dtype}: the demo trains on images")
    split = dataset.splits[0]
    if split in HELD_OUT:
        raise FormatError(f"{spec} has nothing to train on, only a {split} split")
    count = dataset.count(split)
    num_held_out = 0 if set(HELD_OUT) & set(dataset.splits) else round(count * _TEST_FRACTION)
    begins = _begins(dataset, split, devices, live)
    num_training = (begins[0] if begins else 0) - num_held_out
    if num_training < 1:
        raise FormatError(f"{spec} has too few images: {count}, of which the devices alone publish {devices * live}")
    return DemoImages(spec, dataset, split, num_training, num_held_out, begins, follow_links)


def _begins(dataset: Dataset, split: str, devices: int, live: int) -> list[int]:
    """Where each device begins, the last one so that `live` good items follow; empty when there are too few of them."""
    order, decoder = shuffled(dataset.count(split), 0).tolist(), PillowDecoder()
    begins: list[int] = []
    begin = len(order)
    for _ in range(devices):
        num_good = 0
        while num_good < live:
            if begin == 0:
                return []
            begin -= 1
            num_good += _is_good(dataset, split, order[begin], decoder)
        begins.insert(0, begin)
    return begins


def _is_good(dataset: Dataset, split: str, index: int, decoder: ImageDecoder) -> bool:
    try:
        item = dataset.sample(split, index)
        if item.codec != "raw":
            decoder.decode(item.payload, item.codec, IMAGE_SHAPE)
    except (FormatError, RejectedRecord, StorageError):
        return False
    return True
