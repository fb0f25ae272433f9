"""Groups whose members do not all have the same backend, or not for ever."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from edged.domain.group import records as group_records
from edged.domain.group.records import Begin, Part
from edged.domain.group.replay import EpochBegun, Proof, Replay
from edged.domain.group.state import State
from edged.domain.nn import param_vector
from edged.domain.topology import Exchange
from edged.domain.training.learner import Learner
from edged.services.group.parameter_server import ParameterServer
from edged.services.group.trainer import GroupTrainer
from tests.support.fake_time import until
from tests.support.group_world import GROUP_TRAINING, TRAIN, GroupWorld, is_finished
from tests.support.other_backend import OtherBackend

pytestmark = pytest.mark.looptime

TWO, THREE = ("pi-a", "pi-b"), ("pi-a", "pi-b", "pi-c")
MODES = pytest.mark.parametrize("mode", ["all_reduce", "parameter_server"])


def group(edges: Sequence[str], mode: str = "all_reduce", epochs: int = 4) -> GroupWorld:
    training = replace(GROUP_TRAINING, epochs=epochs, checkpoint_s=0, exchange=Exchange(mode))  # type: ignore[arg-type]
    return GroupWorld(tuple(edges), training=training)


def servers(world: GroupWorld) -> list[ParameterServer]:
    return [world.server()] if world.has_server else []


def with_kernels(world: GroupWorld, edge: str, name: str = "other/1") -> GroupTrainer:
    return world.trainer(edge, world.model(OtherBackend(name)))


def begins(world: GroupWorld) -> list[Begin]:
    """The valid ones: the first of each epoch."""
    found: dict[int, Begin] = {}
    for record in world.log.records(TRAIN):
        each = group_records.decode(record.value)
        if isinstance(each, Begin):
            found.setdefault(each.epoch, each)
    return list(found.values())


def assert_replayed(world: GroupWorld, trainers: Sequence[GroupTrainer]) -> None:
    """The log leads to the weights of them all, for who has no backend but numpy."""
    rules, training = world.rules("vault" if world.has_server else ""), world.training
    replay = Replay(training, rules, Learner(training, world.model()).initial(world.job), State())
    events = [event for record in world.log.records(TRAIN) for event in replay.take(record.value, record.offset)]
    assert all(event.holds for event in events if isinstance(event, Proof))
    assert [event.backend for event in events if isinstance(event, EpochBegun)] == [b.backend for b in begins(world)]
    assert {param_vector.digest(each.state.params) for each in trainers} == {replay.weights()}


@MODES
async def test_a_group_computes_by_what_all_its_members_have(log_lines, mode):
    world = group(TWO, mode)
    trainers = [with_kernels(world, edge) for edge in TWO]
    await world.finish(*trainers, servers=servers(world))
    assert [begin.backend for begin in begins(world)] == ["other/1"] * 4
    assert {each.state.division.backend for each in trainers} == {"other/1"}
    assert_replayed(world, trainers)
    plain = group(TWO, mode)
    others = [plain.trainer(edge) for edge in TWO]
    await plain.finish(*others, servers=servers(plain))
    assert [begin.backend for begin in begins(plain)] == ["numpy"] * 4
    assert param_vector.digest(others[0].state.params) != param_vector.digest(trainers[0].state.params)


@MODES
async def test_a_member_without_kernels_has_the_group_compute_by_numpy_and_is_named(log_lines, mode):
    world = group(TWO, mode)
    trainers = [with_kernels(world, "pi-a"), world.trainer("pi-b")]
    await world.finish(*trainers, servers=servers(world))
    assert [begin.backend for begin in begins(world)] == ["numpy"] * 4
    assert {each.state.division.backend for each in trainers} == {"numpy"}
    held_back = world.events("exchange.held_back")
    assert [line["epoch"] for line in held_back] == [0, 1, 2, 3]
    assert {(line["backend"], line["own"], *line["edges"]) for line in held_back} == {("numpy", "other/1", "pi-b")}
    assert_replayed(world, trainers)


@MODES
async def test_a_running_group_takes_up_the_kernels_where_an_epoch_begins_once_all_have_them(log_lines, mode):
    world = group(TWO, mode)
    first = with_kernels(world, "pi-a")
    async with world.running(first, *servers(world)):
        without = world.trainer("pi-b")
        async with world.running(without):
            await until(lambda: without.state.position.step >= 5)
        again = with_kernels(world, "pi-b")
        async with world.running(again):
            await until(lambda: is_finished(first) and is_finished(again))
    assert [begin.backend for begin in begins(world)] == ["numpy", "other/1", "other/1", "other/1"]
    assert_replayed(world, [first, again])


@MODES
async def test_a_member_that_loses_its_kernels_within_an_epoch_is_told_stays_out_and_is_in_the_next(log_lines, mode):
    world = group(THREE, mode)
    steady = [with_kernels(world, edge) for edge in TWO]
    async with world.running(*steady, *servers(world)):
        loses = with_kernels(world, "pi-c")
        async with world.running(loses):
            await until(lambda: loses.state.position.step >= 5)
        again, sent = world.trainer("pi-c"), num_parts(world, "pi-c", epoch=0)
        async with world.running(again):
            await until(lambda: bool(world.events("exchange.left_out")))
            assert "other/1, this node has numpy" in world.hosts["pi-c"].health.reasons["kernels"]
            await until(lambda: all(is_finished(each) for each in (*steady, again)))
    assert num_parts(world, "pi-c", epoch=0) == sent
    [left_out] = world.events("exchange.left_out")
    assert (left_out["level"], left_out["epoch"], left_out["backend"]) == ("error", 0, "other/1")
    assert [begin.backend for begin in begins(world)] == ["other/1", "numpy", "numpy", "numpy"]
    assert sorted(begins(world)[1].members) == list(THREE)
    assert "kernels" not in world.hosts["pi-c"].health.reasons
    assert_replayed(world, [*steady, again])


@MODES
async def test_when_all_are_upgraded_within_an_epoch_they_end_it_and_begin_the_next_by_the_new_kernels(log_lines, mode):
    world = group(TWO, mode)
    first = [with_kernels(world, edge) for edge in TWO]
    async with world.running(*servers(world)):
        async with world.running(*first):
            await until(lambda: all(each.state.position.step >= 5 for each in first))
        upgraded = [with_kernels(world, edge, "other/2") for edge in TWO]
        async with world.running(*upgraded):
            await until(lambda: all(is_finished(each) for each in upgraded))
    assert {line["epoch"] for line in world.events("exchange.abandoned")} == {0}
    assert [begin.backend for begin in begins(world)] == ["other/1", "other/2", "other/2", "other/2"]
    assert sorted(begins(world)[1].members) == list(TWO)
    assert_replayed(world, upgraded)


def num_parts(world: GroupWorld, edge: str, *, epoch: int) -> int:
    """Records of the member's gradients of this epoch."""
    topic = world.address(edge).writes
    written = [group_records.decode(record.value) for record in world.log.records(topic)]
    last_step = sum(begin.num_steps for begin in begins(world)[: epoch + 1])
    return sum(isinstance(each, Part) and each.edge == edge and each.step < last_step for each in written)
