"""Mini-batches: samples decoded into buffers that are allocated once.

Covers decoding, and leaving out what cannot be used. See also: `services.epochs.loader` and `live` for which samples
make a batch.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.samples import codec
from edged.domain.topology import Stream
from edged.errors import RejectedRecord
from edged.ports import ImageDecoder
from edged.services.batches.features import FeatureCache
from edged.shared_work import SharedWork, spread

_PAYLOADS_PER_TASK = 16
"""Compressed images that one thread decodes at a time."""

_FEATURES_PER_TASK = 64
"""Samples whose pixels are in memory at once, where it takes features of them."""


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """`x`: float32 [n, *sample shape]; `y`: int64 [n], class indices, -1 without a class.

    `ids`: int64 [n], the snapshot's sample ids; negative for live samples. `weights`: float32 [n], of the losses.
    Views into buffers, valid until the next but one is taken.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as received. Without payload it is missing; without label it is not for supervised training."""

    payload: bytes | None
    codec: str
    label: str | None
    id: int = -1
    weight: float = 1.0


class Unusable(NamedTuple):
    """A sample that was left out: its id, and why, as `RejectedRecord` says it."""

    id: int
    reason: str
    detail: str


View = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""What training sees of samples [n, *shape] with these ids [n]: augmented, or themselves."""


@dataclass(frozen=True, slots=True)
class Filling:
    """Samples on their way into the batch: `work` decodes them, on any threads.

    `samples`: of `num_drawn`, those that are neither missing nor, where labels are needed, unlabelled.
    """

    num_drawn: int
    samples: Sequence[Encoded]
    rows: slice
    work: SharedWork[npt.NDArray[np.bool_]]


class Batcher:
    """Fills mini-batches of at most `size` samples, in two buffers by turns; without label only if not `needs_labels`.

    With `features`, the batches hold the features of the samples. `executor`: decodes compressed images in parallel.

    `size`: of a full one. `num_unlabelled`, `num_undecodable`, `num_not_finite`: samples left out so far. One call at a
    time, in a worker thread; but the work of a filling may be done meanwhile, and while the batch taken before is used.
    """

    def __init__(
        self,
        stream: Stream,
        size: int,
        images: ImageDecoder,
        executor: Executor | None = None,
        *,
        needs_labels: bool = True,
        features: FeatureCache | None = None,
    ) -> None:
        self._stream = stream
        self._images = images
        self._executor = executor
        self._needs_labels = needs_labels
        self._features = features
        self._classes = codec.class_index(stream)
        shape = stream.shape if features is None else features.shape
        self._buffers = [
            MiniBatch(
                np.zeros((size, *shape), np.float32),
                np.zeros(size, np.int64),
                np.zeros(size, np.int64),
                np.zeros(size, np.float32),
            )
            for _ in range(2)
        ]
        self.size = size
        self._filled = 0
        self._filling: Filling | None = None
        self._handed_out: Future[object] | None = None
        self.num_decoded = 0
        """Samples so far, those of the filling that is under way included: for others."""
        self.num_unlabelled = 0
        self.num_undecodable = 0
        self.num_not_finite = 0
        self._unusable: list[Unusable] = []

    @property
    def num_free(self) -> int:
        """Samples that still fit into the batch."""
        return self.size - self._filled

    @property
    def num_filled(self) -> int:
        """Samples in the batch so far."""
        return self._filled

    def add(self, samples: Sequence[Encoded]) -> None:
        """Append at most `num_free` samples, decoded. Unusable ones are left out and counted."""
        self.hand_out(samples)
        self.finish()

    def hand_out(self, samples: Sequence[Encoded]) -> None:
        """Begin to append at most `num_free` samples, as they are, on the executor's threads. `finish` before the next.

        On those alone, and not by whoever finishes it, whose thread has another priority.
        """
        filling = self.begin(samples)
        if self._executor is not None:
            spread(filling.work, self._executor)
            self._handed_out = self._executor.submit(filling.work.results)

    def begin(self, samples: Sequence[Encoded], view: View | None = None) -> Filling:
        """Begin to append at most `num_free` samples; without `view`, as they are. `finish` before the next call."""
        received = [sample for sample in samples if sample.payload is not None]
        class_of = {label: codec.class_number(self._classes, label) for label in {each.label for each in received}}
        usable = [sample for sample in received if class_of[sample.label] >= 0] if self._needs_labels else received
        self.num_unlabelled += len(received) - len(usable)
        rows = slice(self._filled, self._filled + len(usable))
        buffer = self._buffers[0]
        x, y, ids, weights = buffer.x[rows], buffer.y[rows], buffer.ids[rows], buffer.weights[rows]
        y[:] = [class_of[sample.label] for sample in usable]
        ids[:] = [sample.id for sample in usable]
        weights[:] = [sample.weight for sample in usable]
        payloads, codecs = [sample.payload or b"" for sample in usable], [sample.codec for sample in usable]

        def fill(part: slice) -> npt.NDArray[np.bool_]:
            if self._features is None:
                good = self._fill(x[part], payloads[part], codecs[part])
            else:
                good = self._features.fill(x[part], payloads[part], codecs[part], self._decode)
            if view is not None:
                own = x[part]
                seen = view(own, ids[part])
                if seen is not own:
                    own[:] = seen
            self.num_decoded += len(good)
            return good

        self._filling = Filling(len(samples), usable, rows, SharedWork(fill, self._parts(codecs)))
        return self._filling

    @property
    def is_filling(self) -> bool:
        """Whether anything was begun and is not finished."""
        return self._filling is not None

    def finish(self) -> None:
        """Help with what was begun, or wait for what was handed out; leave out and count what is unusable.

        What was handed out must not be finished in a thread of the executor.
        """
        if (filling := self._filling) is None:
            return
        if self._handed_out is not None:
            self._handed_out.result()
        results = filling.work.results()
        self._filling = self._handed_out = None
        good = results[0] if len(results) == 1 else np.concatenate([np.zeros(0, np.bool_), *results])
        n = int(good.sum())
        if n < len(good):
            buffer, rows = self._buffers[0], filling.rows
            self._note([sample for sample, is_good in zip(filling.samples, good, strict=True) if not is_good])
            for column in (buffer.x[rows], buffer.y[rows], buffer.ids[rows], buffer.weights[rows]):
                column[:n] = column[good]
        self._filled += n

    def _parts(self, codecs: Sequence[str]) -> list[slice]:
        """What of the samples one thread decodes at a time: all, or some compressed images."""
        if self._features is not None:
            return _pieces(len(codecs), _FEATURES_PER_TASK)
        return [slice(0, len(codecs))] if all(name == "raw" for name in codecs) else _pieces(len(codecs))

    def take(self) -> MiniBatch:
        """The batch so far, perhaps empty; starts the next one."""
        buffer, n = self._buffers[0], self._filled
        self._buffers.reverse()
        self._filled = 0
        return MiniBatch(buffer.x[:n], buffer.y[:n], buffer.ids[:n], buffer.weights[:n])

    def drop(self) -> None:
        """Forget the batch so far, and what was begun. Not a take: the one that was taken last stays valid."""
        self.finish()
        self._unusable, self._filled = [], 0

    def take_unusable(self) -> list[Unusable]:
        """Those left out since the last call, but for unlabelled ones."""
        unusable, self._unusable = self._unusable, []
        return unusable

    def _note(self, samples: Sequence[Encoded]) -> None:
        for sample in samples:
            error = self._error(sample)
            self._unusable.append(Unusable(sample.id, error.reason, error.detail))
            if error.reason == "not_finite":
                self.num_not_finite += 1
            else:
                self.num_undecodable += 1

    def _error(self, sample: Encoded) -> RejectedRecord:
        """Why it was left out: found by decoding it once more, as few are."""
        try:
            x = np.empty((1, *self._stream.shape), np.float32)
            codec.fill(x, [sample.payload or b""], [sample.codec], self._stream, self._images.decode)
        except RejectedRecord as error:
            return error
        return RejectedRecord("not_finite", "what the backbone makes of it")

    def _decode(
        self, x: npt.NDArray[np.float32], payloads: Sequence[bytes], codecs: Sequence[str]
    ) -> npt.NDArray[np.bool_]:
        """Decode `payloads` into `x`; which of them could be decoded: bool [n]."""
        if self._executor is None or all(name == "raw" for name in codecs):
            return self._fill(x, payloads, codecs)
        work = SharedWork(lambda part: self._fill(x[part], payloads[part], codecs[part]), _pieces(len(payloads)))
        spread(work, self._executor)
        return np.concatenate([np.zeros(0, np.bool_), *work.results()])

    def _fill(
        self, x: npt.NDArray[np.float32], payloads: Sequence[bytes], codecs: Sequence[str]
    ) -> npt.NDArray[np.bool_]:
        try:
            codec.fill(x, payloads, codecs, self._stream, self._images.decode)
        except RejectedRecord:
            if len(payloads) == 1:
                return np.zeros(1, np.bool_)
            each = [self._fill(x[i : i + 1], payloads[i : i + 1], codecs[i : i + 1]) for i in range(len(payloads))]
            return np.concatenate(each)
        return np.ones(len(payloads), np.bool_)


def _pieces(num_samples: int, size: int = _PAYLOADS_PER_TASK) -> list[slice]:
    """What one thread decodes at a time."""
    return [slice(first, first + size) for first in range(0, num_samples, size)]
