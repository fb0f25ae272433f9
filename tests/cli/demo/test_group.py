"""What the demo tells of a group and of an edge that dies: by the group's log, and by the members' checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.cli.demo import group, outage
from edged.errors import CheckpointCorrupt
from edged.ports import Message
from edged.topology_file import load
from tests.cli.conftest import VALID
from tests.support.written_log import WrittenLog

TOPOLOGY = VALID + "  optimizer: {sgd: {learning_rate: 0.1}}\n  exchange: {mode: all_reduce}\n"


@pytest.fixture
def topology(topology_file):
    return load(Path(topology_file(TOPOLOGY)))


@pytest.fixture
def written(topology):
    """An epoch in which pi-b misses a step."""
    log = WrittenLog(topology)
    log.join("pi-a", "pi-b")
    log.begin("pi-a", "pi-b", num_steps=3)
    log.step({"pi-a": 6, "pi-b": 2})
    log.step({"pi-a": 6}, closed_by="pi-a")
    log.step({"pi-a": 6, "pi-b": 4})
    return log


@pytest.fixture
def folders(written, tmp_path):
    """Of two members that came to the log's end."""
    folders = {edge: tmp_path / edge for edge in ("pi-a", "pi-b")}
    for folder in folders.values():
        save(folder, written)
    return folders


def save(folder: Path, log: WrittenLog) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint-000000000001.safetensors").write_bytes(log.checkpoint())


async def in_memory(log: WrittenLog) -> MemoryLog:
    memory = MemoryLog(RecordingHealth())
    await memory.append([Message("lab.train.digits", blob) for blob in log.blobs])
    return memory


async def fold(topology, log, folders):
    return await group.fold(await in_memory(log), topology, folders, None)


async def test_each_edges_part_is_counted_from_the_log(topology, written, folders):
    done = await fold(topology, written, folders)

    assert (done.steps, done.steps_without_somebody) == (3, 1)
    parts = {edge: (each.samples, each.share, each.steps, each.missed) for edge, each in done.edges.items()}
    assert parts == {"pi-a": (18, 0.75, 3, 0), "pi-b": (6, 0.25, 2, 1)}
    payload = 4 * written.rules.num_parameters
    assert all(payload < each.bytes_per_step < payload + 1000 for each in done.edges.values())


async def test_all_are_identical_when_each_checkpoint_has_the_logs_last_weights(topology, written, folders):
    done = await fold(topology, written, folders)

    assert done.is_identical
    assert (done.weights, done.proofs, done.proofs_failed) == (written.digest(), 3, 0)


async def test_an_edge_with_other_weights_is_found(topology, written, folders):
    right = written.digest()
    written.weights = written.weights + 1
    save(folders["pi-b"], written)

    done = await fold(topology, written, folders)

    assert not done.is_identical
    assert (done.weights, done.edges["pi-a"].weights) == (right, right)
    assert done.edges["pi-b"].weights == written.digest() != right


async def test_an_edge_that_stayed_behind_is_not_identical(topology, written, folders):
    """Its weights are proven, but not those of the end."""
    written.begin("pi-a", "pi-b", num_steps=1)
    written.step({"pi-a": 1, "pi-b": 1})
    save(folders["pi-a"], written)

    done = await fold(topology, written, folders)

    assert not done.proofs_failed
    assert not done.is_identical


async def test_an_edge_without_a_checkpoint_is_told(topology, written, folders):
    for file in folders["pi-b"].iterdir():
        file.unlink()

    with pytest.raises(CheckpointCorrupt, match="no checkpoint is there"):
        await fold(topology, written, folders)


@pytest.mark.parametrize(("after_return", "took_part_again"), [({"pi-a": 6}, False), ({"pi-b": 3}, True)])
async def test_an_edge_took_part_again_if_a_gradient_of_it_counted_behind_its_return(
    topology, written, folders, after_return, took_part_again
):
    killed = outage.Outage("pi-b", epoch=0, step=2, away_s=1.0, caught_up=0)
    written.begin("pi-a", "pi-b", num_steps=2)
    written.step({"pi-a": 6}, closed_by="pi-a")
    written.join("pi-b")
    written.step(after_return, closed_by="pi-a")

    done = await group.fold(await in_memory(written), topology, folders, killed)

    assert done.took_part_again == took_part_again


class Process:
    """A child whose log is given."""

    def __init__(self, *lines: Mapping[str, Any]) -> None:
        self.lines = lines

    def seen(self, event: str, **fields: Any) -> list[Mapping[str, Any]]:
        wanted = {"event": event, **fields}
        return [line for line in self.lines if wanted.items() <= line.items()]

    async def wait_for(self, event: str, **fields: Any) -> Mapping[str, Any]:
        return self.seen(event, **fields)[0]

    async def until(self, condition: Any, _what: str) -> None:
        assert condition(self.lines)


class Site:
    """Edges that trained already; notes what is done to them, and lets the others go on when one is killed."""

    def __init__(self, topology: Any, log: MemoryLog, goes_on: WrittenLog) -> None:
        self.topology, self.edges = topology, ["pi-a", "pi-b"]
        self.done: list[str] = []
        self._log, self._goes_on = log, goes_on

    def child(self, _command: str, _node: str) -> Process:
        return Process(*({"event": "exchange.begun", "epoch": epoch, "step": 0, "steps": 8} for epoch in range(10)))

    async def kill(self, edge: str) -> None:
        self.done.append(f"kill {edge}")
        at = len(self._goes_on.blobs)
        for _ in range(3):
            self._goes_on.step({"pi-a": 6}, closed_by="pi-a")
        await self._log.append([Message("lab.train.digits", blob) for blob in self._goes_on.blobs[at:]])

    async def restart(self, edge: str) -> Process:
        self.done.append(f"restart {edge}")
        return Process({"event": "exchange.caught_up", "steps": 7}, {"event": "exchange.joined"})


async def test_it_is_killed_in_the_middle_and_comes_back_when_the_others_have_gone_on(topology_file):
    topology = load(Path(topology_file(TOPOLOGY.replace("digits\n  model", "digits\n  epochs: 1\n  model"))))
    log = WrittenLog(topology)
    log.join("pi-a", "pi-b")
    log.begin("pi-a", "pi-b", num_steps=8)
    for _ in range(5):
        log.step({"pi-a": 6, "pi-b": 2})
    memory = await in_memory(log)
    site: Any = Site(topology, memory, log)

    told = await outage.cause_outage(site, memory, "pi-b")

    assert site.done == ["kill pi-b", "restart pi-b"]
    assert (told.edge, told.epoch, told.step, told.caught_up) == ("pi-b", 0, 2, 7)
