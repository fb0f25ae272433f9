"""Mini-batches of live samples, straight from the edge's own uplink.

Covers their order, which of them are held out, and where to resume. See also: `services.ingest.live_window` for the
packs.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from itertools import islice
from typing import NamedTuple

import numpy as np

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import test_rows
from edged.domain.archive.source_log import address_in_log
from edged.domain.samples.address import ArchivedAddress, DeviceAddress, SampleAddress
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.log import logger
from edged.services.batches.batcher import Batcher, Encoded, MiniBatch
from edged.services.batches.left_out import LeftOut
from edged.services.ingest.live_window import LiveWindow

MAX_HELD_OUT = 1000
"""Held-out live samples that are kept to test on."""


_Origin = tuple[str, int, int]
"""A sample's device, partition and offset. Its row in the archive may be another than in the log."""


class Cursor(NamedTuple):
    """The next live sample: a pack's offset in the edge's archive topic and a row of it.

    `log`: the edge's name of the log that the topic is, see `samples.written_to`.
    """

    offset: int
    row: int
    log: str = ""


class LiveBatches:
    """Live samples in the order of the log, in full mini-batches. Used by one task.

    Held-out rows are the same as in the archive's epochs. The newest MAX_HELD_OUT of them, at most `held_out_bytes`,
    are kept in memory to test on; after a restart there are none. `wait_s`: seconds spent waiting for samples since
    start; `is_waiting`: whether it is waiting now.
    """

    def __init__(
        self,
        window: LiveWindow,
        batcher: Batcher,
        test_batcher: Batcher,
        *,
        stream: str,
        edge: str,
        test_fraction: float,
        held_out_bytes: int,
        poll_s: float,
    ) -> None:
        self._window = window
        self._batcher = batcher
        self._test_batcher = test_batcher
        self._stream = stream
        self._edge = edge
        self._test_fraction = test_fraction
        self._held_out_bytes = held_out_bytes
        self._poll_s = poll_s
        self._cursor: Cursor | None = None
        self._counted_to = -1
        self._held_out: deque[tuple[Encoded, _Origin]] = deque()
        self._num_bytes = 0
        self._origins: dict[int, _Origin] = {}  # of the batch being filled
        self._taken: deque[dict[int, _Origin]] = deque(maxlen=2)  # of the one waiting and of the one being trained
        self._left_out = LeftOut()
        self.is_waiting = False
        self.wait_s = 0.0
        self.decode_s = 0.0

    @property
    def num_bytes(self) -> int:
        """Payload bytes of the held-out samples."""
        return self._num_bytes

    @property
    def num_decoded(self) -> int:
        """Samples so far, within a mini-batch too."""
        return self._batcher.num_decoded + self._test_batcher.num_decoded

    def start(self, cursor: Cursor) -> Cursor:
        """Start at `cursor`; with a negative offset, at the log's end, as soon as the uplink has found it.

        Samples before that come from the archive: live training means what the sensors see now. A cursor of another log
        than the topic is now becomes that one's beginning.
        """
        self._take()  # drops what an abandoned run left
        self._cursor = cursor
        self._resolve()
        return self._cursor

    def _resolve(self) -> bool:
        """Whether the cursor is a position in the log; it is as soon as the log's end is known."""
        assert self._cursor is not None, "start() first"
        end, log = self._window.end(), self._window.log_name
        if end is None:
            return self._cursor.offset >= 0
        if self._cursor.offset < 0:
            self._cursor = Cursor(end, 0, log)
        elif not self._cursor.log:
            self._cursor = self._cursor._replace(log=log)
        elif self._cursor.log != log:
            logger().warning("train.live_rewound", wanted_offset=self._cursor.offset, next_offset=0)
            self._cursor, self._counted_to = Cursor(0, 0, log), -1
        return True

    async def next(self) -> tuple[MiniBatch, Cursor]:
        """The next full mini-batch and the cursor after it, however long it takes to fill.

        Smaller batches are not trained, as the learning rate is meant for `global_batch`: samples wait in the log.
        """
        while (batch := await self.next_nowait()) is None:
            assert self._cursor is not None, "start() first"
            await self._wait(self._cursor.offset)
        return batch

    async def next_nowait(self) -> tuple[MiniBatch, Cursor] | None:
        """The next full mini-batch if its samples are here. Packs older than the live window are read back first."""
        if not self._resolve():
            return None
        assert self._cursor is not None, "start() first"
        while self._batcher.num_free:
            self._resolve()  # the uplink may have found another log meanwhile
            found = self._window.take_nowait(self._cursor.offset)
            if found is None and self._cursor.offset < (self._window.end() or 0):
                found = await self._wait(self._cursor.offset)
            if found is None:
                return None
            loop = asyncio.get_running_loop()
            begin = loop.time()
            moved = await run_in_worker(self._add, *found, self._cursor)
            self._cursor = moved._replace(log=self._cursor.log)
            self.decode_s += loop.time() - begin
            self._name_unusable(self._batcher)
        return self._take(), self._cursor

    async def _wait(self, offset: int) -> tuple[int, Pack] | None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        self.is_waiting = True
        try:
            return await self._window.take(offset, self._poll_s)
        finally:
            self.is_waiting = False
            self.wait_s += loop.time() - begin

    async def held_out(self) -> AsyncGenerator[MiniBatch, None]:
        """Mini-batches of the newest held-out samples, as they are now."""
        samples = iter([sample for sample, _ in self._held_out])
        while part := list(islice(samples, self._test_batcher.num_free)):
            await run_in_worker(self._test_batcher.add, part)
            self._name_unusable(self._test_batcher)
            yield self._test_batcher.take()

    @property
    def num_left_out(self) -> int:
        """Samples left out of training so far because they, or their losses, were not finite or could not be read."""
        return self._left_out.num_samples

    def leave_out(self, sample: int, reason: str, detail: str = "") -> None:
        """A sample of the last batches, by its id, is left out: name and count it."""
        self._left_out.add(self.address(sample), reason, detail)

    def address(self, sample: int) -> SampleAddress:
        """What the device published; of a sample before the last batches, its place in the edge's archive topic."""
        held_out = {encoded.id: origin for encoded, origin in self._held_out}
        origins = [self._origins, *self._taken, held_out]
        origin = next((each[sample] for each in origins if sample in each), None)
        if origin is None:
            return ArchivedAddress(self._stream, self._edge, *divmod(~sample, 1 << 16))
        return DeviceAddress(self._stream, *origin)

    def _name_unusable(self, batcher: Batcher) -> None:
        for each in batcher.take_unusable():
            self.leave_out(*each)

    def _take(self) -> MiniBatch:
        self._taken.append(self._origins)
        self._origins = {}
        return self._batcher.take()

    def _add(self, offset: int, pack: Pack, cursor: Cursor) -> Cursor:
        """Add the pack's samples from the cursor on to the batch, as many as fit; the cursor after them."""
        address = address_in_log(self._edge, cursor.log, offset)
        is_test = test_rows(*address, len(pack.samples), self._test_fraction)
        encoded = [
            Encoded(sample.payload, sample.codec, sample.label, _live_id(offset, row))
            for row, sample in enumerate(pack.samples)
        ]
        if offset > self._counted_to:
            self._counted_to = offset
            self._keep([(encoded[row], _origin(pack.samples[row])) for row in np.flatnonzero(is_test).tolist()])
        first = cursor.row if offset == cursor.offset else 0
        rows = [row for row in range(first, len(encoded)) if not is_test[row]]
        taken = rows[: self._batcher.num_free]
        self._origins |= {encoded[row].id: _origin(pack.samples[row]) for row in taken}
        self._batcher.add([encoded[row] for row in taken])
        return Cursor(offset + 1, 0) if len(taken) == len(rows) else Cursor(offset, taken[-1] + 1)

    def _keep(self, samples: list[tuple[Encoded, _Origin]]) -> None:
        for sample, origin in samples:
            self._held_out.append((sample, origin))
            self._num_bytes += len(sample.payload or b"")
        while len(self._held_out) > MAX_HELD_OUT or self._num_bytes > self._held_out_bytes:
            self._num_bytes -= len(self._held_out.popleft()[0].payload or b"")


def _origin(sample: Sample) -> _Origin:
    return sample.device, sample.partition, sample.offset


def _live_id(offset: int, row: int) -> int:
    """A distinct id for each live sample, and of no sample of a snapshot."""
    return ~(offset << 16 | row)
