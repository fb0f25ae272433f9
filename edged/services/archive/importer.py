"""Imports a data set into the archive: which sample goes where, and resuming after an interruption.

The order is drawn once from the seed, so that blocks mix the classes, and blocks are cut from it greedily: the same
data set, seed and limit always give the same blocks. Items that are no samples of the stream are left out, and counted
by their names. The samples in a source, and what had to be left out before them, are thus the position to resume from.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from edged.domain.archive.snapshot import TEST_SOURCE, TRAIN_SOURCE, BlockRef
from edged.domain.counted import counted
from edged.domain.samples import border
from edged.domain.samples.pack import MAX_SAMPLES, Pack
from edged.domain.samples.sample import MAX_BYTES, Sample
from edged.domain.samples.shuffle import shuffled
from edged.domain.topology import Stream
from edged.errors import FormatError, RejectedRecord, StorageError
from edged.ports import HELD_OUT, ArchiveStore, Dataset, Item, Omissions

FILE_BYTES = 32 << 20
"""Memory of one file's packs, at most."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Items `order` of the data set's `splits`, numbered through all of them, to be imported into `source`."""

    splits: tuple[str, ...]
    source: str
    order: Sequence[int]

    def places(self, dataset: Dataset) -> Iterator[tuple[str, int]]:
        """The splits and indices of all items, in the data set's order."""
        return (self.place(dataset, number) for number in sorted(self.order))

    def place(self, dataset: Dataset, number: int) -> tuple[str, int]:
        """The split and the index in it of an item."""
        for split in self.splits:
            if number < (count := dataset.count(split)):
                return split, number
            number -= count
        raise IndexError(number)


class Imported(NamedTuple):
    """What a source got. `new`: samples of this import; `samples`: all that it holds, and `of_split` those of each."""

    source: str
    new: int
    samples: int
    of_split: Mapping[str, int]


def portions(
    dataset: Dataset, name: str, split: str, test_fraction: float, seed: int, limit: int | None
) -> list[Portion]:
    """Which samples of `split` ("all" or one of the data set's) go into which source.

    Held-out samples go to `_test.NAME`, all others to `_train.NAME`. Of a data set without a held-out split, "all"
    takes the fraction `test_fraction` for it. `limit`: maximum of items for each source. Raises FormatError for a split
    that does not exist.
    """
    wanted = dataset.splits if split == "all" else (split,)
    if missing := set(wanted) - set(dataset.splits):
        raise FormatError(f"{dataset.name} has no split {min(missing)!r}, only {', '.join(dataset.splits)}")
    held_out = tuple(each for each in wanted if each in HELD_OUT)
    others = tuple(each for each in wanted if each not in HELD_OUT)
    order = _order(dataset, others, seed)
    num_test = 0 if held_out or split != "all" else round(len(order) * test_fraction)
    parts = [
        Portion(others, TRAIN_SOURCE + name, order[num_test:][:limit]),
        Portion(held_out or others, TEST_SOURCE + name, (_order(dataset, held_out, seed) or order[:num_test])[:limit]),
    ]
    return [part for part in parts if part.order]


def check(dataset: Dataset, stream: Stream) -> None:
    """Raise FormatError unless the data set's samples have the shape and dtype of `stream`."""
    shapes = {stream.shape, (math.prod(stream.shape),)}  # a row of numbers is a flattened sample
    if dataset.shape is not None and (dataset.shape not in shapes or dataset.dtype != stream.dtype):
        raise FormatError(
            f"{dataset.name} holds {dataset.dtype} {list(dataset.shape)}, and stream {stream.name} "
            f"{stream.dtype} {list(stream.shape)}: correct streams.{stream.name}.sample, or name another --stream"
        )


def import_portion(
    store: ArchiveStore,
    stream: Stream,
    dataset: Dataset,
    portion: Portion,
    on_progress: Callable[[int], object],
    *,
    form: Callable[[Item], Item] = lambda item: item,
    omissions: Omissions | None = None,
) -> Imported:
    """Import what is missing. `form` makes an item what is archived, or raises RejectedRecord.

    `on_progress` gets numbers of items as they are looked at, those of earlier imports first. What is no sample of the
    stream or cannot be read is left out, into `omissions`. Raises FormatError when the source holds samples of another
    import.
    """
    store.remove_leftovers(stream.name, portion.source)
    end = store.ends(stream.name).get(portion.source, 0)
    items = _Items(dataset, portion, stream, form, Omissions() if omissions is None else omissions)
    before = _skip_imported(store, stream.name, portion, end, items)
    on_progress(items.num_seen)
    done = before
    for packs in _files(_packs(stream, items, on_progress)):
        store.append(stream.name, portion.source, [(end + i, pack) for i, pack in enumerate(packs)])
        end += len(packs)
        done += sum(len(pack.samples) for pack in packs)
    return Imported(portion.source, done - before, done, dict(items.taken))


class _Items:
    """A portion's items that are samples of the stream, as they are archived, one after the other."""

    def __init__(
        self, dataset: Dataset, portion: Portion, stream: Stream, form: Callable[[Item], Item], omissions: Omissions
    ) -> None:
        self._dataset = dataset
        self._portion = portion
        self._stream = stream
        self._form = form
        self._omissions = omissions
        self.num_seen = 0
        """Items looked at so far: the next one's place in the portion's order."""
        self.taken = Counter[str]()
        """Samples so far, of each split."""

    def skip(self, num_items: int) -> None:
        """Take the next items, all of them samples, without looking at them."""
        passed = self._portion.order[self.num_seen : self.num_seen + num_items]
        self.taken.update(self._portion.place(self._dataset, number)[0] for number in passed)
        self.num_seen += num_items

    def __iter__(self) -> Iterator[Sample]:
        while self.num_seen < len(self._portion.order):
            number = self._portion.order[self.num_seen]
            self.num_seen += 1
            split, index = self._portion.place(self._dataset, number)
            if (item := self._item(split, index)) is not None:
                self.taken[split] += 1
                yield Sample("import", 0, number, 0, item.label, item.codec, item.payload)

    def _item(self, split: str, index: int) -> Item | None:
        try:
            item = self._form(self._dataset.sample(split, index))
            border.check_content(item.payload, item.codec, item.label, self._stream)
        except RejectedRecord as error:
            self._omissions.add(error.reason, self._dataset.item_name(split, index))
        except (FormatError, StorageError):
            self._omissions.add("unreadable", self._dataset.item_name(split, index))
        else:
            return item
        return None


def _order(dataset: Dataset, splits: tuple[str, ...], seed: int) -> list[int]:
    order: list[int] = shuffled(sum(dataset.count(split) for split in splits), seed).tolist()
    return order


def _skip_imported(store: ArchiveStore, stream: str, portion: Portion, end: int, items: _Items) -> int:
    """The number of samples of the portion that the source holds; `items` are passed up to the next one."""
    if end == 0:
        return 0
    num_samples = store.snapshot(stream, {portion.source: end}).num_samples
    ((_, last),) = store.read(stream, [BlockRef(portion.source, end - 1)])
    offsets = [sample.offset for sample in last.samples]
    if offsets == list(portion.order[num_samples - len(offsets) : num_samples]):
        items.skip(num_samples)  # nothing was left out
        return num_samples
    # Something was left out before the last sample: all up to there are looked at again.
    if offsets[-1] in portion.order:
        passed = [sample.offset for sample in islice(items, num_samples)]
        if passed[-len(offsets) :] == offsets:
            return num_samples
    raise FormatError(
        f"{stream}/{portion.source} holds {counted(num_samples, 'sample')} of another import "
        "(another data set, seed or limit); choose another --name"
    )


def _packs(stream: Stream, items: _Items, on_progress: Callable[[int], object]) -> Iterator[Pack]:
    """The samples from here on, in packs as full as possible."""
    samples: list[Sample] = []
    num_bytes = 0
    seen = items.num_seen
    for sample in items:
        if len(samples) == MAX_SAMPLES or num_bytes + len(sample.payload) > MAX_BYTES:
            yield Pack(stream.name, tuple(samples))
            samples, num_bytes = [], 0
        samples.append(sample)
        num_bytes += len(sample.payload)
        on_progress(items.num_seen - seen)
        seen = items.num_seen
    on_progress(items.num_seen - seen)
    if samples:
        yield Pack(stream.name, tuple(samples))


def _files(packs: Iterator[Pack]) -> Iterator[list[Pack]]:
    """Packs for one file each."""
    file_packs: list[Pack] = []
    num_bytes = 0
    for pack in chain(packs, [None]):
        size = 0 if pack is None else pack.memory_bytes
        if file_packs and (pack is None or num_bytes + size > FILE_BYTES):
            yield file_packs
            file_packs, num_bytes = [], 0
        if pack is not None:
            file_packs.append(pack)
            num_bytes += size
