"""The topology is read again on request: taken whole or not at all, and the service manager is told."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from edged.adapters.memory.notifier import RecordingNotifier
from edged.app.reload import Reload
from edged.domain.topology import LogSettings
from edged.errors import ConfigError, Problem
from edged.log import logger
from edged.settings import TopologyInUse
from tests.support.valid_topology import VALID, with_edge, with_training

pytestmark = pytest.mark.looptime


class Node:
    """A node's topology and its file: `file` is what can be read of it, or the error."""

    def __init__(self):
        self.file = VALID
        self.num_reads = 0
        self.in_use = TopologyInUse(VALID)
        self.notices = RecordingNotifier()
        self.reload = Reload(self.in_use, self.read, self.notices)

    def read(self):
        self.num_reads += 1
        if isinstance(self.file, ConfigError):
            raise self.file
        return self.file

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.reload.run())
        yield
        task.cancel()
        await asyncio.wait([task])

    async def reloaded(self, file):
        self.file = file
        async with self.running():
            self.reload.request()
            await asyncio.sleep(1)

    @property
    def told(self):
        return [what for what, _ in self.notices.sent]


@pytest.fixture
def node(log_lines):
    return Node()


async def test_what_a_node_can_take_is_in_use_at_once(node, log_lines):
    new = replace(with_training(checkpoint_s=60.0), log=LogSettings("warning"))
    await node.reloaded(new)
    assert node.in_use.topology is new
    logger().info("life.ready", degraded=False)
    assert log_lines("config.reloaded") == []  # of level info
    assert log_lines("life.ready") == []


async def test_the_keys_that_have_changed_are_logged(node, log_lines):
    await node.reloaded(with_training(checkpoint_s=60.0))
    [line] = log_lines("config.reloaded")
    assert line["keys"] == ["training.checkpoint"]


async def test_a_change_that_takes_a_restart_is_refused_whole_with_its_keys(node, log_lines):
    both = replace(with_edge(memory_limit=1 << 30), log=LogSettings("debug"))
    await node.reloaded(both)
    [line] = log_lines("config.refused")
    assert (line["level"], line["keys"], "problems" in line) == ("error", ["edges[pi-a].memory_limit"], False)
    assert node.in_use.topology is VALID


async def test_a_wrong_file_is_refused_with_all_its_problems(node, log_lines):
    wrong = ConfigError(tuple(Problem(f"iot[{i}]", "is missing", place=f"t.yaml:{i}:1") for i in range(3)))
    await node.reloaded(wrong)
    [line] = log_lines("config.refused")
    assert line["level"] == "error"
    assert line["problems"] == [f"t.yaml:{i}:1: iot[{i}]: is missing" for i in range(3)]
    assert node.in_use.topology is VALID


async def test_a_line_of_problems_stays_within_what_the_journal_takes(node, log_lines):
    await node.reloaded(ConfigError(tuple(Problem("iot", "x" * 10_000) for _ in range(5_000))))
    [line] = log_lines("config.refused")
    assert (len(line["problems"]), line["omitted"]) == (100, 4_900)
    assert len(str(line)) < 48 << 10


@pytest.mark.parametrize("file", [VALID, with_edge(memory_limit=1 << 30), ConfigError((Problem("", "no"),))])
async def test_the_service_manager_is_told_that_the_node_reloads_and_is_ready_whatever_comes_of_it(node, file):
    await node.reloaded(file)
    assert node.told == ["reloading", "ready"]


async def test_after_a_refusal_the_corrected_file_is_taken(node):
    await node.reloaded(ConfigError((Problem("", "no"),)))
    new = with_training(checkpoint_s=60.0)
    await node.reloaded(new)
    assert node.in_use.topology is new


async def test_a_storm_of_requests_is_one_reading_and_one_of_what_came_during_it(node):
    def read():
        for _ in range(1000 if node.num_reads == 0 else 0):
            node.reload.request()
        return node.read()

    node.reload = Reload(node.in_use, read, node.notices)
    async with node.running():
        for _ in range(1000):
            node.reload.request()
        await asyncio.sleep(1)
    assert node.num_reads == 2
    assert node.told == ["reloading", "ready"] * 2


async def test_who_waits_for_another_topology_gets_it(node):
    waiting = asyncio.create_task(node.in_use.other_than(VALID))
    new = with_training(checkpoint_s=60.0)
    await node.reloaded(new)
    assert await waiting is new
    assert await node.in_use.other_than(VALID) is new
