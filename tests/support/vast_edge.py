# ruff: noqa: T201 - a script, read by the test
"""An edge's trainer with default settings over an archive of 50 million images, which are generated on request.

Arguments: the sampling mode, how many samples to train, and a folder. The log is in memory and keeps nothing that was
read, so apart from generating images this process is an edge only. Prints JSON: what was trained, and the peak memory
of the process.
"""

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np

import edged.adapters.kafka  # noqa: F401 - an edge has it in memory
from edged import topology_file
from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.host.blas import single_threaded_blas
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.lane_clock import ScriptedLaneClock
from edged.app.jobs import open_jobs
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SamplesRequest
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs import sampler_state
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Gate
from edged.domain.epochs.sampler_state import SamplerState
from edged.domain.epochs.scores import ScoreTable
from edged.domain.place import Place
from edged.log.output import configure
from edged.ports import Committed, Membership, Message, Record, TopicPartition, TopicSpec, Watermarks
from edged.services.epochs.planner import SCORE_BYTES
from edged.settings import Folders, Timing, TopologyInUse
from tests.support.site import DESIGNS_MODEL, FASHION

NUM_BLOCKS, ROWS, PIXELS = 200_000, 250, 784
SAMPLES_PER_PART = 600

TOPOLOGY = f"""\
schema: 1
site: vast
kafka: {{bootstrap: ["127.0.0.1:9092"]}}
streams: {{fashion: {{sample: {{shape: [28, 28, 1], dtype: uint8}}, labels: {FASHION}}}}}
iot: [{{name: cam-01, edge: pi-a, stream: fashion}}]
edges: [{{name: pi-a}}]
archive: [{{name: vault, url: "file:///nowhere"}}]
training: {{stream: fashion, model: {DESIGNS_MODEL}, sampling: {{mode: MODE}}}}
"""


def snapshot() -> Snapshot:
    return Snapshot(
        ("_test.fashion", "_train.fashion"),
        (np.arange(NUM_BLOCKS) > 0).astype(np.int64),
        np.maximum(np.arange(NUM_BLOCKS) - 1, 0),
        np.full(NUM_BLOCKS, ROWS),
        np.full(NUM_BLOCKS, ROWS * PIXELS),
        {"_test.fashion": 1, "_train.fashion": NUM_BLOCKS - 1},
    )


class VastLog:
    """A `ports.Log` with an archive: polling returns the replies to what was appended, made at that moment."""

    def __init__(self) -> None:
        self._answers: deque[Iterator[protocol.Part]] = deque()
        self._next_offset = 0
        self._rng = np.random.default_rng(0)

    @asynccontextmanager
    async def reader(
        self, positions: Mapping[TopicPartition, Place | int], *, group: str | None = None, own: bool = False
    ) -> AsyncIterator["VastLog"]:
        del group, own
        [(self._topic, self._partition)] = positions
        yield self

    def join(self, group: str, topics: Collection[str]) -> AbstractAsyncContextManager[Membership]:
        raise NotImplementedError

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        records: list[Record] = []
        while self._answers and len(records) < max_records:
            part = next(self._answers[0], None)
            if part is None:
                self._answers.popleft()
                continue
            value = protocol.encode_part(part)
            records.append(Record(self._topic, self._partition, self._next_offset, 0, None, value))
            self._next_offset += 1
        await asyncio.sleep(0 if records else timeout_s)
        return records

    def seek(self, partition: TopicPartition, offset: int) -> None: ...

    async def commit(self, places: Mapping[TopicPartition, Place], note: str = "") -> None: ...

    def position(self, partition: TopicPartition) -> int:
        return self._next_offset

    def place(self, partition: TopicPartition) -> Place:
        return Place(self._next_offset)

    @property
    def may_show_gaps(self) -> bool:
        return False

    def lag(self) -> int:
        return 0

    def lag_by_topic(self) -> dict[str, int]:
        return {}

    async def trim(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        return dict(before)

    async def append(self, messages: Sequence[Message], *, refuse_too_large: bool = False) -> list[int]:
        for message in messages:
            request = protocol.decode_request(message.value)
            if isinstance(request, SamplesRequest):
                self._answers.append(self._samples(request))
            else:
                self._answers.append(protocol.snapshot_parts(request.request, snapshot()))
        return [0] * len(messages)

    async def resume(self, kept: Mapping[TopicPartition, Place]) -> dict[TopicPartition, Place]:
        return dict(kept)

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        return dict.fromkeys(partitions, Watermarks(0, 0, 0))

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        del group, partitions
        return {}

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        return dict.fromkeys(topics, 1)

    async def ensure(self, topics: Sequence[TopicSpec]) -> list[str]:
        return []

    async def settings(self, topics: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
        return {}

    def _samples(self, request: SamplesRequest) -> Iterator[protocol.Part]:
        """Images with one bright row, by their label."""
        names = [name.strip() for name in FASHION.strip("[]").split(",")]
        for part, begin in enumerate(range(0, request.num_samples, SAMPLES_PER_PART)):
            end = min(begin + SAMPLES_PER_PART, request.num_samples)
            labels = self._rng.integers(0, len(names), end - begin)
            pixels = self._rng.integers(0, 200, (end - begin, 28, 28), np.uint8)
            pixels[np.arange(end - begin), 2 * labels] = 255
            yield SamplesPart(
                request.request,
                part,
                end == request.num_samples,
                np.arange(begin, end),
                tuple(names[label] for label in labels),
                ("raw",) * (end - begin),
                tuple(image.tobytes() for image in pixels),
                np.zeros(0, np.int64),
            )


def scored(folder: Path) -> None:
    """Leave what an earlier epoch would: scores by block that differ, and the gate open."""
    scores, rng = ScoreTable(snapshot(), SCORE_BYTES), np.random.default_rng(0)
    ids = np.arange(0, NUM_BLOCKS * ROWS, ROWS)
    scores.update(ids, rng.gamma(1.0, size=len(ids)).astype(np.float32))
    start = EpochStart(np.zeros(0, np.int64), is_gate_open=True, capacity_bytes=900 << 20)
    CheckpointDir(folder).save_sampler_state(
        sampler_state.encode(SamplerState(0, snapshot(), start, scores, Gate(2.0))), 0
    )


def peak_bytes() -> int:
    """Peak of this process's resident memory."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


async def train(mode: str, num_samples: int, folder: Path) -> None:
    file = folder / "topology.yaml"
    file.write_text(TOPOLOGY.replace("MODE", mode))
    topology = topology_file.load(file)
    folders = Folders(state=folder / "state", cache=folder / "cache")
    with ThreadPoolExecutor(2) as executor:
        jobs, edge = topology.resolved_jobs("pi-a"), topology.edge("pi-a")
        opened = open_jobs(
            jobs,
            TopologyInUse(topology),
            edge,
            VastLog(),
            RecordingHealth(),
            Timing(),
            folders,
            executor,
            ScriptedLaneClock(),
        )
        async with opened as (trainers, _):
            [trainer] = trainers.values()
            task = asyncio.create_task(trainer.run())
            while trainer.statistics().trained_samples < num_samples and not task.done():  # noqa: ASYNC110 - there is no signal
                await asyncio.sleep(0.1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            tally = trainer.state.tally
    trained = {"trained": tally.num_samples, "accuracy": tally.num_correct / max(tally.num_samples, 1)}
    limit = topology.edge("pi-a").memory_limit
    print(json.dumps({**trained, "peak_bytes": peak_bytes(), "memory_limit": limit}))


if __name__ == "__main__":
    single_threaded_blas()
    configure(node="pi-a", tier="edge", run_id="vast", pretty=False)
    where = Path(sys.argv[3])
    if sys.argv[1] == "importance":
        scored(where / "state")
    asyncio.run(train(sys.argv[1], int(sys.argv[2]), where))
