"""The bytes that a topology has its nodes write to their disks in a year, projected before anything runs.

SD cards wear out by writes. What counts is what the card is given, its file system and systemd's journal included, as
measured on ext4 (`tests/bench/footprint.py`). The projection is of a year without a pause; what depends on how much
devices send is left out of it. See also: `domain.cache.write_budget`, which limits the cache.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edged.domain.cache.write_budget import DAY_S
from edged.domain.topology import Archive, Edge, Topology, Training
from edged.domain.validation.memory import ModelMemory

SERVICE_LINES_S = 60.0
"""Between a service's lines about itself: the journal is on the SD card, where one in 10 s takes 310 MB a day."""

_YEAR_S = 365 * DAY_S
_DURABLE_BYTES = 64 << 10
"""Of a file that is synced, renamed and synced by its folder, beside its content: the file system's own journal."""

_MODEL_BYTES = 144 << 10
"""The same, of a model with its description and its second name."""

_STATE_BYTES = 16 << 10
"""Of a checkpoint beside its tensors: names, positions, and the last epochs' metrics."""

_LINE_BYTES = 64 << 10
_GATHERED_S = 30.0
"""For so long Linux gathers pages before it writes them, and the lines of the journal share some."""

_LINES_PER_EPOCH = 6


@dataclass(frozen=True, slots=True)
class Writes:
    """Bytes in a year by purpose. `per_epoch`: at each epoch's end, also of live training, which has no last one."""

    log: int
    checkpoints: int
    epochs: int
    cache: int
    per_epoch: int

    @property
    def parts(self) -> dict[str, int]:
        """What they consist of, by name."""
        return {"log": self.log, "checkpoints": self.checkpoints, "epochs": self.epochs, "cache": self.cache}

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def edge_writes(topology: Topology, edge: Edge, models: Sequence[ModelMemory | None], line_s: float) -> Writes:
    """Of an edge and its companion, at most: as if it trained all year. `models`: of the topology's jobs, in order.

    `line_s`: the time between two lines of a service, where the topology does not say it.
    """
    jobs = [(job, model) for job, model in zip(topology.jobs, models, strict=True) if model]
    per_epoch = sum(_epoch_bytes(job, model) for job, model in jobs)
    epochs = sum(job.epochs * _epoch_bytes(job, model) for job, model in jobs if job.source != "live")
    checkpoints = sum(int(_YEAR_S / job.checkpoint_s) * _checkpoint_bytes(job, model) for job, model in jobs)
    is_cached = edge.cache.disk > 0 and any(job.source != "live" for job, _ in jobs)
    cache = 365 * edge.cache.disk_writes_per_day if is_cached else 0
    resources_s = topology.log.resources_s or line_s
    # The daemon's series; the companion's, and its lines about predictions.
    lines = 1 / resources_s + (1 / resources_s + 1 / line_s if jobs else 0)
    return Writes(journal_bytes(lines), checkpoints, epochs, cache, per_epoch)


def archive_writes(topology: Topology, archive: Archive, line_s: float) -> int:
    """Bytes in a year of an archive node's log, which tells of each source. Its folder's own are the samples'."""
    sources = len({(device.edge, device.stream) for device in topology.iot})
    resources_s = topology.log.resources_s or line_s
    return journal_bytes(1 / resources_s + sources / max(archive.flush_age_s, resources_s))


def journal_bytes(lines_per_s: float) -> int:
    """Bytes in a year of lines at this rate, in systemd's journal.

    Measured at 1, 3, 6 and 30 lines in the time in which Linux gathers them: 64, 106, 147 and 307 kB.
    """
    gathered = lines_per_s * _GATHERED_S
    return int(_YEAR_S / _GATHERED_S * _LINE_BYTES * (math.sqrt(gathered) if gathered > 1 else gathered))


def gigabytes(num_bytes: int) -> str:
    """As cards state what they endure: "12.3 GB"."""
    return f"{num_bytes / 1e9:,.1f} GB"


def _checkpoint_bytes(job: Training, model: ModelMemory) -> int:
    """A group's checkpoint also holds the weights that the epoch began with."""
    copies = 2 if job.exchange.mode != "none" else 1
    return copies * (1 + len(job.optimizer.slots)) * model.weights + _STATE_BYTES + _DURABLE_BYTES


def _epoch_bytes(job: Training, model: ModelMemory) -> int:
    """A checkpoint, the model, what the next epoch's plan starts from, and the log's lines about it."""
    lines = int(math.sqrt(_LINES_PER_EPOCH) * _LINE_BYTES)
    return _checkpoint_bytes(job, model) + model.weights + _MODEL_BYTES + _DURABLE_BYTES + lines
