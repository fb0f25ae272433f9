"""Writes to a disk as a node does, for a record of it. Arguments: what, and the disk's folder.

After each step, which is durable by then, its number is appended to the file `steps`.
"""

import sys
from pathlib import Path

import numpy as np

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.disk.sqlite_cache import MIN_BUDGET_BYTES, SqliteCache
from edged.domain.cache.entry import Entry, SampleKey
from edged.domain.nn.model import Division
from edged.domain.training import checkpoint
from edged.domain.training.state import Position, TrainState
from edged.ports import DeployedModel
from tests.support.archive_samples import open_archive, pack

STEPS = 6
JOB = "power"


def state_at(step: int) -> TrainState:
    """A state whose checkpoint takes several sectors."""
    params = {"w": np.full(500, step, np.float32)}
    return TrainState(params, {"velocity": {"w": np.zeros(500, np.float32)}}, JOB, Division(1, 4), Position(step=step))


def model_at(step: int) -> DeployedModel:
    """A model of several sectors."""
    return DeployedModel(step, bytes([step]) * 3000, ("a", "b"), (2, 2, 1), None)


def entry_of(number: int) -> tuple[SampleKey, Entry]:
    """One of the cache's."""
    return SampleKey("pi-a", number, 0), Entry(number.to_bytes(2, "big") * 400, "raw", "boot")


def steps(disk: Path) -> list[int]:
    """Those that are done."""
    file = disk / "steps"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def _checkpoints(disk: Path) -> None:
    store = CheckpointDir(disk / "state" / "edged" / "pi-a")
    for step in range(1, STEPS + 1):
        store.save_sampler_state(bytes([step]) * 700, step)
        store.save(checkpoint.encode(state_at(step)), step)
        store.deploy(model_at(step))
        _done(disk, step)


def _archive(disk: Path) -> None:
    store = open_archive(disk / "archive")
    store.create("lab")
    for step in range(1, STEPS + 1):
        store.append("fashion", "pi-a", [(2 * step - 2, pack(8 * step)), (2 * step - 1, pack(8 * step + 4))])
        _done(disk, step)


def _cache(disk: Path) -> None:
    cache = SqliteCache(disk / "cache", MIN_BUDGET_BYTES, "lab/fashion")
    for step in range(1, STEPS + 1):
        cache.put_many(dict(entry_of(number) for number in range(20 * step, 20 * step + 20)))
        cache.delete_many(entry_of(number)[0] for number in range(20 * step, 20 * step + 7))
        cache.set_note(str(step))
        _done(disk, step)
    cache.close()


def _done(disk: Path, step: int) -> None:
    with (disk / "steps").open("a") as file:
        file.write(f"{step}\n")


if __name__ == "__main__":
    {"checkpoints": _checkpoints, "archive": _archive, "cache": _cache}[sys.argv[1]](Path(sys.argv[2]))
