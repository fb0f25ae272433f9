"""Imports a data set into the archive: which sample goes where, and resuming after an interruption.

The order is drawn once from the seed, so that blocks mix the classes, and blocks are cut from it greedily: the same
data set, seed and limit always give the same blocks. The number of samples in a source is thus the position to resume
from.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from edged.domain.archive.snapshot import TEST_SOURCE, TRAIN_SOURCE, BlockRef
from edged.domain.samples import border
from edged.domain.samples.pack import MAX_BYTES, MAX_SAMPLES, Pack
from edged.domain.samples.sample import Sample
from edged.domain.samples.shuffle import shuffled
from edged.domain.text import shown
from edged.domain.topology import Stream
from edged.errors import FormatError, RejectedRecord
from edged.ports import ArchiveStore, Dataset

FILE_BYTES = 32 << 20
"""Payload bytes of one file, at most."""
_SAMPLE_BYTES = 512
"""Memory of a sample besides its payload."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Samples `order` of the data set's `split`, to be imported into `source`."""

    split: str
    source: str
    order: Sequence[int]


def portions(
    dataset: Dataset, name: str, split: str, test_fraction: float, seed: int, limit: int | None
) -> list[Portion]:
    """Which samples of `split` ("all" or one of the data set's) go into which source.

    Test samples go to `_test.NAME`, all others to `_train.NAME`. Of a data set without a test split, "all" takes the
    fraction `test_fraction` for it. `limit`: maximum of samples of each source. Raises FormatError for a split that
    does not exist.
    """
    if split == "all" and "test" not in dataset.splits:
        (only,) = dataset.splits[:1]
        order = _order(dataset.count(only), seed)
        num_test = round(len(order) * test_fraction)
        halves = [(only, TRAIN_SOURCE, order[num_test:]), (only, TEST_SOURCE, order[:num_test])]
    else:
        wanted = dataset.splits if split == "all" else (split,)
        if missing := set(wanted) - set(dataset.splits):
            raise FormatError(f"{dataset.name} has no split {min(missing)!r}, only {', '.join(dataset.splits)}")
        halves = [
            (each, TEST_SOURCE if each == "test" else TRAIN_SOURCE, _order(dataset.count(each), seed))
            for each in wanted
        ]
    return [Portion(part, prefix + name, order[:limit]) for part, prefix, order in halves if order]


def check(dataset: Dataset, stream: Stream) -> None:
    """Raise FormatError unless the data set's samples are samples of `stream`."""
    if unknown := [label for label in dataset.labels if label not in stream.labels]:
        first = ", ".join(map(shown, unknown[:10])) + (" …" if len(unknown) > 10 else "")
        raise FormatError(f"labels of {dataset.name} that stream {stream.name} does not have: {first}")
    shapes = {stream.shape, (math.prod(stream.shape),)}  # a row of numbers is a flattened sample
    if dataset.shape is not None and (dataset.shape not in shapes or dataset.dtype != stream.dtype):
        raise FormatError(
            f"{dataset.name} holds {dataset.dtype} {list(dataset.shape)}, and stream {stream.name} "
            f"{stream.dtype} {list(stream.shape)}"
        )


def import_portion(
    store: ArchiveStore, stream: Stream, dataset: Dataset, portion: Portion, on_progress: Callable[[int], object]
) -> int:
    """Import what is missing; return the number of samples imported.

    `on_progress` gets numbers of samples as they become durable, those of earlier imports first. Raises FormatError
    when the source holds samples of another import, and for an item that is no sample of the stream; what is durable
    by then stays.
    """
    store.remove_leftovers(stream.name, portion.source)
    end = store.ends(stream.name).get(portion.source, 0)
    done = _num_imported(store, stream.name, portion, end)
    on_progress(done)
    before = done
    for packs in _files(_packs(stream, dataset, portion, done)):
        store.append(stream.name, portion.source, [(end + i, pack) for i, pack in enumerate(packs)])
        end += len(packs)
        num_samples = sum(len(pack.samples) for pack in packs)
        on_progress(num_samples)
        done += num_samples
    return done - before


def _order(count: int, seed: int) -> list[int]:
    order: list[int] = shuffled(count, seed).tolist()
    return order


def _num_imported(store: ArchiveStore, stream: str, portion: Portion, end: int) -> int:
    """The number of samples of the portion that the source holds."""
    if end == 0:
        return 0
    snapshot = store.snapshot(stream, {portion.source: end})
    num_samples = snapshot.num_samples
    ((_, last),) = store.read(stream, [BlockRef(portion.source, end - 1)])
    expected = portion.order[num_samples - len(last.samples) : num_samples]
    if num_samples > len(portion.order) or [sample.offset for sample in last.samples] != list(expected):
        raise FormatError(
            f"{stream}/{portion.source} holds {num_samples:,} samples of another import "
            "(another data set, seed or limit); choose another --name"
        )
    return num_samples


def _packs(stream: Stream, dataset: Dataset, portion: Portion, begin: int) -> Iterator[Pack]:
    """The portion's samples from `begin` on, in packs as full as possible."""
    samples: list[Sample] = []
    num_bytes = 0
    for index in portion.order[begin:]:
        item = dataset.sample(portion.split, index)
        try:
            border.check_content(item.payload, item.codec, item.label, stream)
        except RejectedRecord as error:
            raise FormatError(f"sample {index} of {dataset.name}: {error}") from error
        if len(samples) == MAX_SAMPLES or num_bytes + len(item.payload) > MAX_BYTES:
            yield Pack(stream.name, tuple(samples))
            samples, num_bytes = [], 0
        samples.append(Sample("import", 0, index, 0, item.label, item.codec, item.payload))
        num_bytes += len(item.payload)
    if samples:
        yield Pack(stream.name, tuple(samples))


def _files(packs: Iterator[Pack]) -> Iterator[list[Pack]]:
    """Packs for one file each."""
    file_packs: list[Pack] = []
    num_bytes = 0
    for pack in chain(packs, [None]):
        size = 0 if pack is None else pack.num_bytes + _SAMPLE_BYTES * len(pack.samples)
        if file_packs and (pack is None or num_bytes + size > FILE_BYTES):
            yield file_packs
            file_packs, num_bytes = [], 0
        if pack is not None:
            file_packs.append(pack)
            num_bytes += size
