"""Several edges that train one model, in one process and on a fake clock."""

import asyncio
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edged.domain import tensors
from edged.domain.archive import protocol
from edged.domain.archive.snapshot import BlockRef
from edged.domain.group import compression as compress
from edged.domain.group import formats
from edged.domain.group import records as exchange_records
from edged.domain.group.records import Begin, Close, Part
from edged.domain.group.replay import Proof, Replay
from edged.domain.group.state import Rules, State
from edged.domain.nn import param_vector
from edged.domain.topology import Exchange, Sgd
from edged.domain.training.learner import Learner
from edged.domain.training.state import Params, TrainState
from edged.ports import Message, TopicPartition
from edged.services.group.trainer import GroupTrainer
from tests.support.fake_time import until
from tests.support.group_world import (
    GRADIENTS,
    GROUP_TRAINING,
    TIMEOUT_S,
    TRAIN,
    AnsweringGroupLog,
    GroupWorld,
    is_finished,
)
from tests.support.holes import hide
from tests.support.training_world import CrashError, default_blocks, make_pack

pytestmark = pytest.mark.looptime

ONE, TWO, THREE = ("pi-a",), ("pi-a", "pi-b"), ("pi-a", "pi-b", "pi-c")


def all_of(world: GroupWorld) -> list[GroupTrainer]:
    return [world.trainer(edge) for edge in world.edges]


def weights(trainers: Sequence[GroupTrainer]) -> str:
    """The digest of the weights that they all have."""
    digests = {param_vector.digest(each.state.params) for each in trainers}
    assert len(digests) == 1
    return digests.pop()


async def trained(world: GroupWorld) -> list[GroupTrainer]:
    trainers = all_of(world)
    servers = [world.server()] if world.training.exchange.mode == "parameter_server" else []
    await world.finish(*trainers, servers=servers)
    return trainers


async def reach(trainers: Sequence[GroupTrainer], step: int) -> None:
    await until(lambda: all(each.state.position.step >= step for each in trainers))


def difference(one: Params, other: Params) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def records(world: GroupWorld, topic: str = TRAIN) -> list[exchange_records.Record]:
    return [exchange_records.decode(record.value) for record in world.log.records(topic)]


def with_exchange(**settings) -> Exchange:
    return Exchange(**{"mode": "all_reduce", **settings})


@pytest.mark.parametrize("edges", [ONE, TWO, THREE])
async def test_all_members_end_with_the_same_bits(log_lines, edges):
    world = GroupWorld(edges)
    trainers = await trained(world)
    weights(trainers)
    assert world.log.records(GRADIENTS) == []  # which are a server's
    assert {each.state.position.epoch for each in trainers} == {2}
    for epoch in (0, 1):
        lines = [line for line in world.events("exchange.epoch") if line["epoch"] == epoch]
        assert len(lines) == len(edges)
        assert len({line["weights"] for line in lines}) == 1
        assert {line["missed"] for line in lines} == {0}


async def test_more_members_learn_what_one_would(log_lines):
    states = [(await trained(GroupWorld(edges)))[0].state for edges in (ONE, TWO, THREE)]
    for other in states[1:]:
        assert difference(states[0].params, other.params) < 1e-5
        assert [each.step for each in other.history] == [each.step for each in states[0].history]
        for one, two in zip(states[0].history, other.history, strict=True):
            assert one.test_accuracy == two.test_accuracy
            assert abs(one.loss - two.loss) < 1e-5


async def test_the_group_learns_and_every_member_deploys_the_model(log_lines):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=20, optimizer=Sgd(0.5)))
    trainers = await trained(world)
    assert (trainers[0].state.history[-1].test_accuracy or 0) > 0.8
    models = [host.store.newest_model() for host in world.hosts.values()]
    assert models[0] is not None
    assert models[0] == models[1]


@pytest.mark.parametrize("compression", ["fp16", "int8", "top_k"])
async def test_compressed_gradients_lead_to_the_same_bits_everywhere(log_lines, compression):
    exchange = with_exchange(compression=compression, top_k=0.3)
    trainers = await trained(GroupWorld(TWO, training=replace(GROUP_TRAINING, exchange=exchange)))
    weights(trainers)
    exact = await trained(GroupWorld(TWO))
    assert 0 < difference(exact[0].state.params, trainers[0].state.params) < 0.5


async def test_a_parameter_server_gives_the_weights_that_all_reduce_gives(log_lines):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, exchange=Exchange("parameter_server")))
    together = await trained(GroupWorld(TWO))
    served = await trained(world)
    assert difference(together[0].state.params, served[0].state.params) < 1e-6
    weights(served)
    assert not any(isinstance(record, Part) for record in records(world))


async def test_a_killed_parameter_server_resumes_after_its_last_update(log_lines):
    exchange = Exchange("parameter_server", compression="fp16")
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=4, exchange=exchange))
    trainers = all_of(world)
    async with world.running(*trainers) as tasks:
        for steps in (5, 20, 40):
            async with world.running(world.server()):
                await reach(trainers[:1], steps)
        async with world.running(world.server()):
            await until(lambda: all(is_finished(each) for each in trainers))
        assert not any(task.done() for task in tasks)
    weights(trainers)
    assert {line["missed"] for line in world.events("exchange.epoch")} == {0}


async def test_rounds_of_several_steps_lead_to_the_same_bits_and_learn(log_lines):
    exchange = with_exchange(sync_every=4)
    training = replace(GROUP_TRAINING, epochs=20, optimizer=Sgd(0.3), exchange=exchange)
    world = GroupWorld(TWO, training=training)
    trainers = await trained(world)
    weights(trainers)
    assert trainers[0].state.position.step == 20 * 4
    assert (trainers[0].state.history[-1].test_accuracy or 0) > 0.7
    outer = [each.state.slots["outer"] for each in trainers]
    assert param_vector.digest(outer[0]) == param_vector.digest(outer[1])


async def test_a_member_that_dies_is_left_out_after_two_steps(log_lines):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=3))
    model = world.model()
    model.crash_at = 6
    survivor, victim = world.trainer("pi-a"), world.trainer("pi-b", model)
    async with world.running(survivor, victim) as tasks:
        await until(lambda: is_finished(survivor))
        assert isinstance(tasks[1].exception(), CrashError)
    closed = [record for record in records(world) if isinstance(record, Close)]
    assert len({record.step for record in closed}) == 2  # two in a row, then it is no longer expected
    assert survivor.state.position.epoch == 3
    last = next(line for line in world.events("exchange.begun") if line["epoch"] == 2)
    assert sorted(last["shares"]) == ["pi-a"]
    [absent] = world.events("exchange.absent")
    assert (absent["edge"], absent["reason"], absent["step"]) == ("pi-b", "silent", 5 + 2)


@pytest.mark.parametrize("mode", ["all_reduce", "parameter_server"])
async def test_an_epoch_whose_members_died_is_abandoned_by_a_member_that_joined_since(log_lines, mode):
    world = GroupWorld(THREE, training=replace(GROUP_TRAINING, epochs=4, exchange=Exchange(mode)))
    servers = [world.server()] if mode == "parameter_server" else []
    world.log.before_part = lambda _part: asyncio.sleep(1.0)
    models = [world.model() for _ in TWO]
    for model in models:
        model.crash_at = 22
    first = [world.trainer(edge, model) for edge, model in zip(TWO, models, strict=True)]
    late = world.trainer("pi-c")
    async with world.running(*first, *servers) as tasks:
        await until(lambda: first[0].state.position.epoch == 1)
        async with world.running(late):
            await until(lambda: is_finished(late))
            assert all(isinstance(task.exception(), CrashError) for task in tasks[:2])
    [abandoned] = world.events("exchange.abandoned")
    assert (abandoned["epoch"], abandoned["step"], abandoned["steps_left"]) == (1, 23, 2 * 14 - 23)
    assert [line["shares"] for line in world.events("exchange.begun") if line["epoch"] == 2] == [{"pi-c": 1.0}]
    back = world.trainer("pi-a")
    await world.finish(back, servers=[world.server()] if servers else [])
    weights([late, back])


@pytest.mark.parametrize("mode", ["all_reduce", "parameter_server"])
async def test_an_epoch_with_nothing_to_train_on_does_not_count_and_the_group_waits_for_other_samples(log_lines, mode):
    training = replace(GROUP_TRAINING, exchange=Exchange(mode), optimizer=Sgd(0.5))
    world = GroupWorld(TWO, training=training)
    good = world.log.blocks
    world.log.blocks = {BlockRef("pi-a", 100 + i): make_pack(i, 10, unlabelled=range(10)) for i in range(3)}
    trainers = all_of(world)
    servers = [world.server()] if world.has_server else []
    async with world.running(*trainers, *servers) as tasks, asyncio.timeout(TIMEOUT_S):
        await until(lambda: len(world.events("epoch.useless")) > 0 or any(task.done() for task in tasks))
        await asyncio.sleep(120)
        assert [line["epoch"] for line in world.events("epoch.useless")] == [0, 0], (
            "the same samples are not read again"
        )
        assert all(each.progress().idle for each in trainers)
        assert [host.store.newest_model() for host in world.hosts.values()] == [None, None]
        world.log.blocks = world.log.blocks | good
        await until(lambda: len(trainers[0].state.history) == len(trainers[1].state.history) == 2)
        await until(lambda: all(each.progress().idle for each in trainers) and len(world.events("train.finished")) == 2)
    weights(trainers)
    for each in trainers:
        assert (each.state.position.epoch, each.state.num_useless) == (3, 1)
    lines = world.events("train.epoch")
    assert sorted(line["epoch"] for line in lines) == [1, 1, 2, 2]
    assert all(line["samples"] > 0 for line in lines)
    assert all(host.store.newest_model() is not None for host in world.hosts.values())


async def test_over_the_same_archive_a_useless_epoch_is_tried_again_after_ten_minutes(log_lines):
    world = GroupWorld(ONE)
    world.log.blocks = {BlockRef("pi-a", 100): make_pack(0, 10, unlabelled=range(10))}
    async with world.running(world.trainer("pi-a")), asyncio.timeout(TIMEOUT_S):
        await until(lambda: len(world.events("epoch.useless")) == 1)
        begun = asyncio.get_running_loop().time()
        await until(lambda: len(world.events("epoch.useless")) == 2)
        assert 600 <= asyncio.get_running_loop().time() - begun < 660


@pytest.mark.parametrize("edges", [ONE, TWO])
async def test_a_finished_group_that_is_given_more_epochs_goes_on_over_the_same_archive_at_once(log_lines, edges):
    world = GroupWorld(edges)
    await trained(world)
    world.training = replace(world.training, epochs=world.training.epochs + 1)
    begun = asyncio.get_running_loop().time()

    trainers = await trained(world)

    assert {each.state.position.epoch for each in trainers} == {3}
    assert asyncio.get_running_loop().time() - begun < 120
    assert not world.events("epoch.useless")


async def test_an_epoch_whose_members_are_slow_or_restart_is_not_abandoned(log_lines):
    """Some are away for longer than one step is waited for."""
    world = GroupWorld(THREE)
    world.log.before_part = lambda _part: asyncio.sleep(10.0)
    first, late, again = [world.trainer(edge) for edge in TWO], world.trainer("pi-c"), []
    async with AsyncExitStack() as staying:
        async with world.running(*first):
            await reach(first, 2)
            await staying.enter_async_context(world.running(late))
            await reach(first, 4)
        await asyncio.sleep(40.0)
        again = [world.trainer(edge) for edge in TWO]
        await staying.enter_async_context(world.running(*again))
        await until(lambda: all(is_finished(each) for each in (*again, late)))
        weights([*again, late])
    assert [record.edge for record in records(world) if isinstance(record, Close)] == ["pi-c"]
    left = {line["edge"] for line in world.events("exchange.absent") if line["reason"] == "left" and not line["epoch"]}
    assert left == {line["edge"] for line in world.events("exchange.awaited") if not line["epoch"]} == set(TWO)
    assert not world.events("exchange.abandoned")


async def test_a_crashed_member_catches_up_by_replay_to_the_same_bits(log_lines):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=4, checkpoint_s=0))
    model = world.model()
    model.crash_at = 20
    survivor, victim = world.trainer("pi-a"), world.trainer("pi-b", model)
    async with world.running(survivor, victim) as tasks:
        await until(tasks[1].done)
        step = survivor.state.position.step
        await until(lambda: survivor.state.position.step >= step + 6)
        again = world.trainer("pi-b")
        async with world.running(again):
            await until(lambda: is_finished(survivor) and is_finished(again))
        weights([survivor, again])
        assert isinstance(tasks[1].exception(), CrashError)
    assert [line["steps"] for line in world.events("exchange.caught_up")][-1] >= 5
    assert [line["edge"] for line in world.events("exchange.absent") if line["reason"] == "silent"] == ["pi-b"]
    assert sum(isinstance(record, Part) and record.edge == "pi-b" for record in records(world)) > 20


async def test_a_member_that_returns_to_an_epoch_begun_without_it_joins_once_and_is_in_the_next(log_lines):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=4))
    world.log.before_part = lambda _part: asyncio.sleep(1.0)
    steady, away = world.trainer("pi-a"), world.trainer("pi-b")
    async with world.running(steady):
        async with world.running(away):
            await reach([away], 3)
        await until(lambda: steady.state.position.epoch == 1 and steady.state.position.step >= 18)
        joined = len(world.events("exchange.joined"))
        back = world.trainer("pi-b")
        async with world.running(back):
            await until(lambda: is_finished(steady) and is_finished(back))
            weights([steady, back])
    assert len(world.events("exchange.joined")) == joined + 1
    assert sorted(world.events("exchange.begun")[-1]["shares"]) == list(TWO)
    steadys, backs = (
        [line for line in world.events("exchange.epoch") if line["epoch"] == 1 and ("advice" in line) is computed]
        for computed in (True, False)
    )
    assert len(steadys) == len(backs) == 1  # one of them only watched: it has no times to report
    assert not backs[0].keys() & {"step_ms", "comm_fraction"}
    for key in ("steps", "contributions", "missed"):
        assert backs[0][key] == steadys[0][key]


async def test_a_stopped_group_resumes_where_it_was_and_ends_with_the_same_bits(log_lines):
    world = GroupWorld(TWO)
    for steps in (3, 9, 17):
        trainers = all_of(world)
        async with world.running(*trainers):
            await reach(trainers, steps)
    trainers = await trained(world)
    weights(trainers)
    begun = [line["steps"] for line in world.events("exchange.begun") if line["epoch"] == 1]
    assert trainers[0].state.position.step == 2 * begun[0]


async def test_no_step_is_applied_twice_whatever_the_checkpoint(log_lines):
    """A member killed again and again, with the log complete, ends with the weights of one that was never killed."""
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, checkpoint_s=0))
    steady = world.trainer("pi-a")
    rng = np.random.default_rng(3)
    async with world.running(steady):
        for _ in range(100):
            model = world.model()
            model.crash_at = int(rng.integers(1, 5))
            shaky = world.trainer("pi-b", model)
            async with world.running(shaky) as tasks:
                await until(lambda: tasks[0].done() or is_finished(shaky))  # noqa: B023 - awaited at once
            if is_finished(shaky) and is_finished(steady):
                break
    weights([steady, shaky])


async def test_a_new_member_joins_in_the_middle_from_the_published_checkpoint(log_lines):
    world = GroupWorld(THREE, training=replace(GROUP_TRAINING, epochs=6))
    first = [world.trainer(edge) for edge in TWO]
    async with world.running(*first):
        await until(lambda: first[0].state.position.epoch >= 2)
        late = world.trainer("pi-c")
        async with world.running(late):
            await until(lambda: all(is_finished(each) for each in (*first, late)))
            weights([*first, late])
    assert len(world.events("exchange.adopted")) == 1
    assert sorted(world.events("exchange.begun")[-1]["shares"]) == list(THREE)


async def test_a_member_resumes_from_a_published_checkpoint_when_the_log_was_truncated(log_lines):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=6))
    steady = world.trainer("pi-a")
    async with world.running(steady):
        away = world.trainer("pi-b")
        async with world.running(away):
            await until(lambda: away.state.position.step >= 5)
        await until(lambda: steady.state.position.epoch >= 2)
        world.log.truncate(TopicPartition(TRAIN), len(world.log.records(TRAIN)) - 5)
        back = world.trainer("pi-b")
        async with world.running(back):
            await until(lambda: is_finished(steady) and is_finished(back))
            weights([steady, back])
    assert len(world.events("exchange.log_lost")) == 1
    assert len(world.events("exchange.adopted")) >= 1
    assert world.hosts["pi-b"].health.history == [("degraded", "exchange"), ("recovered", "exchange")]


@pytest.mark.parametrize("mode", ["all_reduce", "parameter_server"])
@pytest.mark.parametrize("victim", ["pi-a", "pi-c"])
@pytest.mark.parametrize("epochs", [2, 3])
async def test_a_member_with_wrong_weights_adopts_the_others_and_stops_nobody(log_lines, mode, victim, epochs):
    """Also in the last epoch, after which none begins; and also the member whose turn it is to propose the next."""
    world = GroupWorld(THREE, training=replace(GROUP_TRAINING, epochs=epochs, exchange=Exchange(mode)))
    trainers = all_of(world)
    wrong = trainers[THREE.index(victim)]
    servers = [world.server()] if mode == "parameter_server" else []

    async def rot(part: Part) -> None:
        if (part.edge, part.step) == (victim, 22):
            wrong.state.params[min(wrong.state.params)].flat[0] += 0.5

    world.log.before_part = rot
    await world.finish(*trainers, servers=servers)
    weights(trainers)
    diverged = world.events("exchange.diverged")
    assert [(line["epoch"], line["weights"]) for line in diverged] == [(1, diverged[0]["weights"])]
    assert diverged[0]["edge"] != victim
    assert len(world.events("exchange.adopted")) == 1
    models = [host.store.newest_model() for host in world.hosts.values()]
    assert models[0] == models[1] == models[2]


async def test_a_begin_with_a_false_hash_misleads_nobody(log_lines, monkeypatch):
    """It is in the log before each honest one."""
    world = GroupWorld(TWO)
    append = world.log.append

    async def lie_first(messages: Sequence[Message]) -> list[int]:
        record = exchange_records.decode(messages[0].value) if messages[0].topic == TRAIN else None
        if isinstance(record, Begin):
            await append([Message(TRAIN, exchange_records.encode(replace(record, weights="0" * 64)))])
        return await append(messages)

    monkeypatch.setattr(world.log, "append", lie_first)
    trainers = await trained(world)
    assert weights(trainers) == weights(await trained(GroupWorld(TWO)))
    assert world.events("exchange.rejected")[0]["reason"] == "begins with other weights than the group's"
    assert not world.events("exchange.diverged")


async def test_garbage_and_records_of_strangers_change_nothing(log_lines):
    whole = weights(await trained(GroupWorld(TWO)))
    world = GroupWorld(TWO)
    trainers = all_of(world)

    async def throw() -> None:
        step = trainers[0].state.position.step
        forged = [
            b"not a record",
            b"",
            exchange_records.encode(Part("stranger", step, "00" * 4, 0, 1, 4, 1.0, 1, 1.0, b"x")),
            exchange_records.encode(Part("pi-b", step + 900, "00" * 4, 0, 1, 4, 1.0, 1, 1.0, b"x")),
            exchange_records.encode(Close(step + 5, "stranger")),
        ]
        await world.log.append([Message(TRAIN, blob) for blob in forged])

    async with world.running(*trainers):
        for steps in (2, 8, 16):
            await reach(trainers[:1], steps)
            await throw()
        await until(lambda: all(is_finished(each) for each in trainers))
    assert weights(trainers) == whole
    told = [line.get("edge") for line in world.events("exchange.rejected")]
    assert {"stranger", "pi-b"} <= set(told), "whose records come first hides nobody's"


async def test_an_unreadable_record_at_the_end_of_the_log_does_not_stop_a_restart(log_lines):
    world = GroupWorld(TWO)
    trainers = all_of(world)
    async with world.running(*trainers):
        await reach(trainers, 5)
    await world.log.append([Message(TRAIN, b"")])
    hide(world.log, TRAIN, {len(world.log.records(TRAIN)) - 1: math.inf})
    weights(await trained(world))


async def test_a_test_whose_loss_is_finite_but_huge_is_withheld(log_lines, monkeypatch):
    test = Learner.test

    def exploded(learner: Learner, state: TrainState, *args: Any, **options: Any) -> tuple[Any, int]:
        losses, num_correct = test(learner, state, *args, **options)
        return losses * np.float32(1e31 if state.position.epoch == 0 else 1), num_correct

    monkeypatch.setattr(Learner, "test", exploded)
    world = GroupWorld(TWO)
    weights(await trained(world))
    assert [line["reason"] for line in world.events("exchange.withheld")] == ["test"] * 2


async def test_a_member_whose_numbers_are_not_finite_contributes_nothing(log_lines):
    world = GroupWorld(TWO)
    model = world.model()
    model.poisoned_from, model.poisoned_to = 4, 9
    trainers = [world.trainer("pi-a"), world.trainer("pi-b", model)]
    await world.finish(*trainers)
    weights(trainers)
    assert len(world.events("exchange.withheld")) == 5
    empty = [record for record in records(world) if isinstance(record, Part) and not record.count]
    assert [record.edge for record in empty] == ["pi-b"] * 5


@pytest.mark.parametrize("mode", ["all_reduce", "parameter_server"])
@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_diverging_group_rolls_back_and_continues_with_half_the_rate_the_same_on_all(
    log_lines, mode, is_killed
):
    """Also a member that makes these steps from the log alone; and a replay proves the final weights."""
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=3, exchange=Exchange(mode)))
    models = [world.model() for _ in TWO]
    for model in models:
        model.poisoned_from, model.poisoned_to = 20, 23
    if is_killed:
        models[1].crash_at = 18
        world.log.before_part = lambda _part: asyncio.sleep(1.0)
    trainers = [world.trainer(edge, model) for edge, model in zip(TWO, models, strict=True)]
    servers = [world.server()] if mode == "parameter_server" else []
    async with world.running(*trainers, *servers) as tasks, asyncio.timeout(TIMEOUT_S):
        if is_killed:
            await until(lambda: bool(world.events("train.diverged")))
            assert isinstance(tasks[1].exception(), CrashError)
            trainers[1] = world.trainer(TWO[1])
            tasks.append(asyncio.create_task(trainers[1].run()))
        await until(lambda: all(is_finished(each) for each in trainers))
    diverged = world.events("train.diverged")
    assert [(each["epoch"], each["step"], each["restored_step"], each["slowdowns"]) for each in diverged] == [
        (1, 22, 14, 1)
    ] * 2
    assert {each.state.slowdowns for each in trainers} == {1}
    assert not world.events("exchange.diverged")
    assert replayed(world) == weights(trainers)


async def test_a_group_that_diverges_again_and_again_ends_its_training_cleanly_and_for_good(log_lines):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=3))
    models = [world.model() for _ in TWO]
    for model in models:
        model.poisoned_from = 18

    def ends() -> list[dict[str, Any]]:
        return [line for line in world.events("train.diverged") if not line["goes_on"]]

    trainers = [world.trainer(edge, model) for edge, model in zip(TWO, models, strict=True)]
    async with world.running(*trainers) as tasks:
        await until(lambda: len(ends()) == 2)
        await asyncio.sleep(60)
        assert not any(task.done() for task in tasks)
        assert all(each.progress().idle for each in trainers)
    final = weights(trainers)
    assert len(world.events("train.diverged")) == 2 * 4
    deployed = world.hosts["pi-a"].store.newest_model()
    assert deployed is not None
    assert deployed.generation == 17 + 4 * 3

    again = all_of(world)
    async with world.running(*again):
        await until(lambda: len(ends()) == 4)
    assert [line["slowdowns"] for line in ends()] == [3] * 4
    assert weights(again) == final == replayed(world)
    assert not world.events("train.finished")


def replayed(world: GroupWorld) -> str:
    """The digest of the weights that the log leads to."""
    training, n = world.training, world.model().num_parameters
    rules = Rules(frozenset(world.edges), world.job, n, lambda blob: compress.decompress(blob, n), "vault")
    replay = Replay(training, rules, Learner(training, world.model()).initial(world.job), State())
    for record in world.log.records(TRAIN):
        for outcome in replay.take(record.value, record.offset):
            assert not isinstance(outcome, Proof) or outcome.holds
    return replay.weights()


async def test_a_late_gradient_is_kept_by_its_sender_and_stops_nobody(log_lines):
    """Each time, the step is closed just before the gradient arrives."""
    world = GroupWorld(TWO)

    async def close_first(part: Part) -> None:
        if part.edge == "pi-b" and part.step in {3, 7, 8}:
            await until(lambda: any(isinstance(r, Part) and r.step == part.step for r in records(world)))
            await world.log.append([Message(TRAIN, exchange_records.encode(Close(part.step, "pi-a")))])

    world.log.before_part = close_first
    trainers = await trained(world)
    weights(trainers)
    assert {line["missed"] for line in world.events("exchange.epoch")} == {3, 0}
    late = world.events("exchange.late")
    assert {(line["edge"], line["step"]) for line in late} <= {("pi-b", 3), ("pi-b", 7), ("pi-b", 8)}
    assert late


async def test_while_the_broker_is_away_the_group_waits_and_a_stop_is_quick(log_lines):
    world = GroupWorld(TWO)
    trainers = all_of(world)
    loop = asyncio.get_running_loop()
    async with world.running(*trainers):
        await until(lambda: min(each.state.position.step for each in trainers) >= 5)
        world.log.unavailable = True
        await asyncio.sleep(120)
        steps = [each.state.position.step for each in trainers]
        stopped_at = loop.time()
    assert loop.time() - stopped_at < 10
    world.log.unavailable = False
    trainers = await trained(world)
    weights(trainers)
    assert min(steps) >= 5


async def test_a_stop_before_anything_was_restored_saves_nothing(log_lines):
    world = GroupWorld(ONE)
    async with world.running(world.trainer("pi-a")):
        pass
    assert world.hosts["pi-a"].store.saved == {}


class QuietFromBegin(AnsweringGroupLog):
    """The archive answers nobody from the second epoch's Begin on, until it `wakes`. `asked`: edges that asked then."""

    wakes = False

    def __init__(self) -> None:
        super().__init__(default_blocks())
        self.asked: set[str] = set()

    async def answer(self, request: protocol.Request) -> None:
        begun = [exchange_records.decode(record.value) for record in self.records(TRAIN)]
        if self.wakes or not any(isinstance(each, Begin) and each.epoch == 1 for each in begun):
            await super().answer(request)
        else:
            self.asked.add(request.edge)


async def test_an_epochs_first_step_needs_nothing_that_the_archive_sends_after_its_begin(log_lines):
    log = QuietFromBegin()
    world = GroupWorld(TWO, log=log)
    trainers = all_of(world)
    async with world.running(*trainers), asyncio.timeout(TIMEOUT_S):
        await until(lambda: second_epochs_first(world) == set(TWO))
        log.wakes = True
        await until(lambda: all(is_finished(each) for each in trainers))
    weights(trainers)


async def test_in_a_growing_archive_nothing_is_fetched_before_the_epochs_snapshot_is_known(log_lines):
    log = QuietFromBegin()
    world = GroupWorld(TWO, log=log)

    async def grow(_: Part) -> None:
        log.blocks |= {BlockRef("late", 0): next(iter(log.blocks.values()))}

    log.before_part = grow
    trainers = all_of(world)
    async with world.running(*trainers), asyncio.timeout(TIMEOUT_S):
        await until(lambda: log.asked == set(TWO))
        assert second_epochs_first(world) == set()
        log.wakes = True
        await until(lambda: all(is_finished(each) for each in trainers))
    weights(trainers)


def second_epochs_first(world: GroupWorld) -> set[str]:
    """The edges that have sent a gradient of the second epoch."""
    written = records(world)
    begin = next(
        (i for i, record in enumerate(written) if isinstance(record, Begin) and record.epoch == 1),
        len(written),
    )
    return {record.edge for record in written[begin:] if isinstance(record, Part)}


def formats_of(world: GroupWorld, topic: str = TRAIN) -> list[tuple[str, str]]:
    """Kind and format of all records, in their order."""
    blobs = [record.value for record in world.log.records(topic)]
    return [(type(exchange_records.decode(blob)).__name__, tensors.decode(blob)[1]["edged"]) for blob in blobs]


def of_the_version_before(world: GroupWorld, monkeypatch, *edges: str) -> None:
    """From now on these write as a version did that knew of no second format."""
    append = world.log.append

    async def appended(messages, **options):
        plain = [replace(each, headers=()) if formats.author(each.value) in edges else each for each in messages]
        return await append(plain, **options)

    monkeypatch.setattr(world.log, "append", appended)


@pytest.mark.parametrize("mode", ["all_reduce", "parameter_server"])
async def test_a_rolling_upgrade_does_not_stop_a_group(log_lines, monkeypatch, mode):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, epochs=4, exchange=with_exchange(mode=mode)))
    servers = [world.server()] if world.has_server else []
    with monkeypatch.context() as before:
        of_the_version_before(world, before, "pi-b")
        async with world.running(*servers), world.running(world.trainer("pi-a")):
            async with world.running(world.trainer("pi-b")):
                await until(lambda: len([each for each in formats_of(world) if each[0] == "Begin"]) == 2)
            assert {version for _, version in formats_of(world)} == {"exchange/1"}
            before.undo()  # pi-b is upgraded, while pi-a trains on
            trainer = world.trainer("pi-b")
            async with world.running(trainer):
                await until(lambda: trainer.state.position.epoch == 4)

    begins = [version for kind, version in formats_of(world) if kind == "Begin"]
    assert begins == sorted(begins)
    assert begins[-1] == "exchange/4"
    assert {version for kind, version in formats_of(world) if kind in {"Join", "Leave"}} == {"exchange/1"}
    assert not world.events("exchange.diverged")
    assert not world.events("exchange.rejected")


async def test_a_server_of_the_version_before_is_upgraded_last_or_first(log_lines, monkeypatch):
    world = GroupWorld(TWO, training=replace(GROUP_TRAINING, exchange=with_exchange(mode="parameter_server")))
    append = world.log.append

    async def appended(messages, **options):
        plain = [replace(each, headers=()) if each.topic == TRAIN else each for each in messages]
        return await append(plain, **options)

    monkeypatch.setattr(world.log, "append", appended)
    await world.finish(*(world.trainer(edge) for edge in TWO), servers=[world.server()])
    assert {version for _, version in formats_of(world) + formats_of(world, GRADIENTS)} == {"exchange/1"}
