"""The images of the demo: which are imported for training, which for testing, and which the devices publish.

Import and sensor go through a data set in the same order, so that each takes what the other leaves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from edged.adapters.datasets.registry import Dataset, open_dataset
from edged.adapters.images import PillowDecoder
from edged.cli.demo.topology_text import IMAGE_SHAPE
from edged.domain.samples.shuffle import shuffled
from edged.errors import FormatError, RejectedRecord

_TEST_FRACTION = 0.1
"""Held out of a data set that is not divided."""

_MAX_TRIED = 20
"""Images looked at before anything starts. An edge leaves out broken ones; with no others there is nothing to show."""


@dataclass(frozen=True, slots=True)
class DemoImages:
    """An open data set and its division. `num_held_out`: samples before those for training, imported for testing."""

    spec: str
    dataset: Dataset
    split: str
    num_training: int
    num_held_out: int

    def imports(self) -> Iterator[tuple[str, ...]]:
        """The arguments of each `edged archive import`."""
        limit = ("--limit", str(self.num_training))
        if self.num_held_out:
            yield ("--from", self.spec, "--split", "all", "--test-fraction", str(_TEST_FRACTION), *limit)
            return
        yield ("--from", self.spec, "--split", self.split, *limit)
        if "test" in self.dataset.splits:
            yield ("--from", self.spec, "--split", "test")

    def publication(self, skip: int) -> tuple[str, ...]:
        """The arguments of an `edged sensor` that leaves out `skip` of the samples not imported."""
        first = self.num_held_out + self.num_training + skip
        return ("--from", self.spec, "--split", self.split, "--shuffle", "0", "--skip", str(first))


def open_images(spec: str, num_live: int) -> DemoImages:
    """The data set `spec`, with `num_live` samples left to the devices.

    Raises FormatError or StorageError with the reason why the demo cannot be shown with it.
    """
    dataset = open_dataset(spec)
    if not dataset.labels:
        raise FormatError(f"{spec} has no labels to train on: the demo wants a folder for each class")
    if dataset.shape is not None and (len(dataset.shape) != 3 or dataset.dtype != "uint8"):
        raise FormatError(f"{spec} holds {list(dataset.shape)} {dataset.dtype}: the demo trains on images")
    split = dataset.splits[0]
    if split == "test":
        raise FormatError(f"{spec} has nothing to train on, only a test split")
    count = dataset.count(split)
    num_held_out = 0 if "test" in dataset.splits else round(count * _TEST_FRACTION)
    num_training = count - num_held_out - num_live
    if num_training < 1:
        raise FormatError(f"{spec} has too few images: {count}, of which the devices alone publish {num_live}")
    if dataset.shape is None:
        _require_images(spec, dataset, split)
    return DemoImages(spec, dataset, split, num_training, num_held_out)


def _require_images(spec: str, dataset: Dataset, split: str) -> None:
    tried = shuffled(dataset.count(split), 0)[:_MAX_TRIED].tolist()
    reason = ""
    for index in tried:
        item = dataset.sample(split, index)
        try:
            PillowDecoder().decode(item.payload, item.codec, IMAGE_SHAPE)
        except RejectedRecord as error:
            reason = reason or str(error)
        else:
            return
    raise FormatError(f"{spec}: none of the {len(tried)} images looked at can be decoded ({reason})")
