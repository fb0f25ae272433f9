"""Finished data sets, what of them is left out, and the decoding of images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edged.domain.counted import counted
from edged.domain.text import shown
from edged.domain.topology import Dtype

HELD_OUT = ("test", "val")
"""The splits that are tested on and never trained on."""

Format = Literal["raw", "jpeg", "png", "webp", "gif", "bmp"]
"""How an item's payload is stored; the last three are converted before they are archived or published."""


class ImageDecoder(Protocol):
    """Compressed images to pixels."""

    def decode(self, payload: bytes, codec: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Pixels of `payload` (in a Format that is not "raw") as uint8 of `shape` (height, width, channels).

        The image is converted to the shape's channels and scaled to its size where they differ. Sizes are checked
        before any pixel is decoded. Raises RejectedRecord.
        """


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a data set. `payload` is in `codec`; "raw" is the array's bytes in C order.

    `label` is None in data sets without labels.
    """

    label: str | None
    codec: Format
    payload: bytes


REASONS: Mapping[str, tuple[str, str]] = {
    "hidden": ("hidden file", ""),
    "junk": ("file", " made by an operating system or a tool, not by you"),
    "link": ("link", " not followed: --follow-links takes those that lead below the data set's folder"),
    "broken_link": ("broken link", ": git annex get, dvc pull or the like brings the content"),
    "link_outside": ("link", " out of the data set's folder"),
    "link_again": ("link", " to what is listed already"),
    "special_file": ("special file", ", a device, pipe or socket: never opened"),
    "unreadable": ("file", " that cannot be read"),
    "empty": ("empty file", ""),
    "pointer": ("pointer", " to what is elsewhere: git lfs pull or git annex get brings the content"),
    "other_image": ("image", " in a format that is not read: convert to JPEG or PNG"),
    "not_an_image": ("file", " without an image"),
    "beside_splits": ("image", " beside the folders of the splits"),
    "no_class": ("image", " in no class's folder"),
    "unlabelled_split": ("image", " of a test split without the training split's labels"),
    "truncated": ("image", " cut short or damaged"),
    "too_many_pixels": ("image", " with too many pixels"),
    "too_large": ("sample", " too large for a message"),
    "wrong_length": ("sample", " not of the stream's shape"),
    "bad_label": ("sample", " with a label that cannot be stored"),
    "not_finite": ("row", " with a number too large or not finite"),
    "denormal": ("sample", " with all values below 1.2e-38: is it little-endian float32?"),
    "not_a_number": ("row", " with a field that is no number"),
    "num_fields": ("row", " with another number of fields than there are columns"),
    "no_label": ("row", " without a label"),
    "bad_quotes": ("row", " with a quote that is not closed"),
    "nul_bytes": ("row", " with NUL bytes, as a power cut leaves them"),
    "too_long": ("line", " too long for a row"),
    "above_header": ("line", " above the one that names the columns"),
}
"""Why files or rows are left out: stable words, and for a message what is counted and what is the matter with it."""

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What of a data set is no sample for one reason, a word of REASONS: how many files or rows, and the first ones."""

    reason: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        noun, matter = REASONS.get(self.reason, ("item", f": {self.reason}"))
        return f"{counted(self.count, noun)}{matter} ({', '.join(self.first)}{more})"


class Omissions:
    """Counts what is left out by reason, and keeps the first names of each. Its memory does not grow with the data."""

    def __init__(self, omissions: Iterable[LeftOut] = ()) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}
        for each in omissions:
            self._counts[each.reason] = each.count
            self._first[each.reason] = list(each.first)

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count what is called `name`; a folder counts for its `count` files."""
        self._counts[reason] = self._counts.get(reason, 0) + count
        first = self._first.setdefault(reason, [])
        if len(first) < _MAX_NAMED:
            first.append(name)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def listed(self) -> tuple[LeftOut, ...]:
        """All so far, in the order of REASONS."""
        order = [*REASONS, *(reason for reason in self._counts if reason not in REASONS)]
        names = [name for first in self._first.values() for name in first]
        return tuple(
            LeftOut(reason, self._counts[reason], tuple(shown(name, beside=names) for name in self._first[reason]))
            for reason in order
            if reason in self._counts
        )


class Dataset(Protocol):
    """A finished, labelled set of samples with random access, from which a sensor replays. Synchronous."""

    @property
    def name(self) -> str:
        """The name for messages."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that items may have, in the data set's own order; empty: there are none."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of every raw payload; None when items are images of any size."""

    @property
    def dtype(self) -> Dtype:
        """The dtype of raw payloads (little-endian), and of decoded images."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, the one to train on first; never empty."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What was found to be no item when the data set was opened."""

    def count(self, split: str) -> int:
        """The number of items in the split. Raises KeyError for an unknown split."""

    def sample(self, split: str, index: int) -> Item:
        """Item `index` of the split, always the same. Raises IndexError, StorageError, FormatError."""

    def label(self, split: str, index: int) -> str | None:
        """The label of the item, which need not be read for it."""

    @property
    def label_place(self) -> str:
        """Where labels are written, for messages."""

    def item_name(self, split: str, index: int) -> str:
        """What a message calls the item: its file, or its line."""
