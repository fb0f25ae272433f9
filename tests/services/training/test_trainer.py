"""The training job, from the first start to the last epoch, with kills in between."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from edged.domain.archive import snapshot as dataset
from edged.domain.archive.snapshot import BlockRef
from edged.domain.epochs import split
from edged.domain.nn.backend import Backend
from edged.domain.nn.model import Division, Gradient, Model
from edged.domain.nn.spec import Dense, Dropout, Flatten
from edged.domain.samples import pack as packs
from edged.domain.topology import Adam, Augment, Cosine, Deploy, Sgd
from edged.domain.training import checkpoint
from edged.domain.training.state import Params, TrainState
from edged.errors import AnotherVersion, DiskFull, TopologyMismatch
from edged.ports import Message
from edged.services.ingest.live_window import LiveWindow
from edged.services.training.trainer import Trainer
from tests.support.fake_time import until
from tests.support.other_backend import OtherBackend
from tests.support.training_world import LIVE, STREAM, TRAINING, CrashError, CrashingModel, World, make_pack

pytestmark = pytest.mark.looptime


@pytest.fixture
def world(log_lines) -> World:  # which puts logging back in the end
    return World()


async def run_until(trainer: Trainer, is_enough: Callable[[], bool]) -> None:
    """Run it until `is_enough`, then stop it as SIGTERM does. Raises what the trainer raised before."""
    task = asyncio.create_task(trainer.run())
    await until(lambda: task.done() or is_enough())
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


async def reach(trainer: Trainer, step: int) -> None:
    await until(lambda: trainer.state.position.step >= step)


async def finish(world: World, **options) -> Trainer:
    trainer = world.trainer(**options)
    before = world.num_finished
    await run_until(trainer, lambda: world.num_finished > before)
    return trainer


async def give_up(world: World, trainer: Trainer) -> None:
    """Run it until it has diverged too often to go on."""
    diverged = partial(world.events, "train.diverged")
    await run_until(trainer, lambda: trainer.progress().idle and bool(diverged()) and not diverged()[-1]["goes_on"])


def bits(params: Params) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in params.items()}


def newest(world: World) -> TrainState:
    return checkpoint.decode(world.store.saved[max(world.store.saved)], job=world.job)


async def test_all_epochs_are_trained_reported_saved_and_deployed(world):
    trainer = await finish(world)
    epochs = world.events("train.epoch")
    assert [line["epoch"] for line in epochs] == [0, 1]
    trained = {line["samples"] for line in epochs}
    assert trained == {sum(len(pack.samples) for pack in world.log.blocks.values()) - held_out(world)}
    assert epochs[0]["test_samples"] == held_out(world)
    assert epochs[1]["loss"] < epochs[0]["loss"]
    assert newest(world).position.epoch == 2
    assert bits(newest(world).params) == bits(trainer.state.params)
    model = world.store.newest_model()
    assert model is not None
    assert model.generation == trainer.state.position.step
    assert model.content == b"".join(trainer.state.params[name].tobytes() for name in sorted(trainer.state.params))


def held_out(world: World) -> int:
    """Counted in the held-out windows."""
    snapshot = world.log.snapshot()
    windows = split.held_out_windows(snapshot, test_fraction=0.2, window_bytes=8192, max_samples=10_000)
    return sum(window.num_samples for window in windows)


async def test_int8_models_are_calibrated_by_held_out_samples(world):
    world.training = replace(world.training, deploy=Deploy("int8"))
    await finish(world)
    snapshot = world.log.snapshot()
    windows = split.held_out_windows(snapshot, test_fraction=0.2, window_bytes=8192, max_samples=10_000)
    payloads = [world.log.sample(int(i)).payload for window in windows for i in window.ids[window.order]]
    expected = np.frombuffer(b"".join(payloads), np.uint8).reshape(-1, 2, 2, 1) / np.float32(255)
    assert len(world.calibrations) == world.training.epochs
    for calibration in world.calibrations:
        np.testing.assert_allclose(calibration, expected[:256], rtol=1e-6)
    assert {line["format"] for line in world.events("checkpoint.deployed")} == {"int8"}


async def test_float32_models_ask_for_no_samples(world):
    await finish(world)
    assert world.calibrations == [None] * world.training.epochs
    assert {line["format"] for line in world.events("checkpoint.deployed")} == {"float32"}


async def test_training_learns(world):
    world.training = replace(TRAINING, epochs=30, optimizer=Sgd(0.5))
    await finish(world)
    assert world.events("train.epoch")[-1]["test_accuracy"] > 0.8


async def test_an_epoch_without_a_sample_to_train_on_does_not_count_and_the_next_samples_are_waited_for(world):
    good = world.log.blocks
    world.log.blocks = {BlockRef("pi-a", 100 + i): make_pack(i, 10, unlabelled=range(10)) for i in range(3)}
    trainer = world.trainer()
    task = asyncio.create_task(trainer.run())
    await until(lambda: len(world.events("epoch.useless")) > 0 or world.num_finished > 0)
    await asyncio.sleep(60)
    assert len(world.events("epoch.useless")) == 1, "the same samples are not read again"
    assert trainer.progress().idle
    assert (trainer.state.position.epoch, world.store.saved, world.store.newest_model()) == (0, {}, None)
    world.log.blocks = world.log.blocks | good
    await until(lambda: world.num_finished > 0)
    task.cancel()
    assert [line["epoch"] for line in world.events("train.epoch")] == [0, 1]
    assert all(line["samples"] > 0 for line in world.events("train.epoch"))
    assert world.events("train.diverged") == []


async def test_finished_training_is_idle_and_stays_finished_after_a_restart(world):
    trainer = await finish(world)
    assert trainer.progress().idle
    steps = newest(world).position.step
    again = await finish(world)
    assert again.state.position.step == steps
    assert len(world.events("train.epoch")) == 2


async def test_killed_at_random_steps_the_weights_end_bit_for_bit_the_same(world):
    whole = bits((await finish(World())).state.params)
    rng = np.random.default_rng(5)
    world.training = replace(world.training, checkpoint_s=0)  # each step
    for _ in range(200):
        model = world.model()
        model.crash_at = int(rng.integers(1, 7))
        if rng.random() < 0.3:  # the newest checkpoint is torn as well
            generation = max(world.store.saved, default=0)
            world.store.saved[generation] = world.store.saved.get(generation, b"")[:100]
        try:
            trainer = await finish(world, model=model)
        except CrashError:
            continue
        break
    assert len(world.events("train.started")) > 5
    assert bits(trainer.state.params) == whole


async def test_a_restart_keeps_the_division_of_mini_batches(world):
    """Another machine, or another measurement of its cache, would change the order of summation, and the bits."""
    trainer = await finish(world)
    halves = World(training=world.training)
    stopped = halves.trainer()
    await run_until(stopped, lambda: stopped.state.position.step >= 5)
    other = Model(STREAM.shape, TRAINING.model, micro_batch=3, lanes=2)
    again = await finish(halves, model=other)
    assert halves.events("train.started")[-1]["micro_batch"] == 4
    assert again.state.division == trainer.state.division
    assert bits(again.state.params) == bits(trainer.state.params)


async def test_a_stop_within_an_epoch_saves_and_the_next_start_resumes_there(world):
    whole = await finish(World())
    first = world.trainer()
    await run_until(first, lambda: first.state.position.step >= 5)
    assert newest(world).position == first.state.position
    assert 5 <= first.state.position.step < whole.state.position.step
    second = await finish(world)
    assert bits(second.state.params) == bits(whole.state.params)
    assert [line["resumed"] for line in world.events("train.started")] == [False, True]
    first_epoch = world.events("train.epoch")[0]
    assert first_epoch["samples"] == World().log.snapshot().num_samples - held_out(world)


async def test_a_resumed_epoch_keeps_its_snapshot_while_the_archive_grows(world):
    first = world.trainer()
    await run_until(first, lambda: first.state.position.step >= 5)
    world.log.blocks[type(next(iter(world.log.blocks)))("pi-a", 6)] = make_pack(6, 20)
    await finish(world)
    one, two = world.events("train.epoch")
    assert one["samples"] < two["samples"]
    assert world.events("epoch.redrawn") == []


async def test_when_the_archive_has_lost_blocks_the_epoch_restarts(world):
    first = world.trainer()
    await run_until(first, lambda: first.state.position.step >= 5)
    world.log.blocks.popitem()
    world.log.blocks.pop(next(iter(world.log.blocks)))
    await finish(world)
    assert len(world.events("epoch.redrawn")) == 1
    assert len({line["samples"] for line in world.events("train.epoch")}) == 1


async def test_a_crash_leaves_the_last_checkpoint_as_it_is(world):
    model = world.model()
    model.crash_at = 20
    with pytest.raises(CrashError):
        await finish(world, model=model)
    assert [generation for generation, _ in world.store.checkpoints()] == [
        line["step"] for line in world.events("train.epoch")
    ]


async def test_checkpoints_are_saved_within_an_epoch_when_due(world):
    world.training = replace(world.training, checkpoint_s=0)
    await finish(world)
    steps = newest(world).position.step
    assert len(world.events("checkpoint.saved")) >= steps


async def test_while_a_checkpoint_is_saved_no_step_is_made(real_threads, world, monkeypatch):
    world.training = replace(world.training, checkpoint_s=0)
    model, loop = world.model(), asyncio.get_running_loop()
    before, after = [], []

    with ThreadPoolExecutor(1) as executor:

        def save(checkpoint, generation):
            before.append(model.steps)
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()  # whatever the loop was about to begin
            executor.submit(lambda: None).result()  # the lane does after what was begun before
            after.append(model.steps)
            stored(checkpoint, generation)

        stored = world.store.save
        monkeypatch.setattr(world.store, "save", save)
        await finish(world, model=model, executor=executor)
    assert before == after
    assert len(after) > 10


async def test_a_full_disk_degrades_health_and_training_continues(world):
    world.store.error = DiskFull("No space left on device")
    trainer = world.trainer()
    await run_until(trainer, lambda: bool(world.events("train.epoch")))
    assert "disk" in world.health.reasons
    assert world.events("checkpoint.failed")
    world.store.error = None
    await finish(world)
    assert "disk" not in world.health.reasons


async def test_the_last_model_is_deployed_after_a_crash_before_deploying(world):
    trainer = await finish(world)
    world.store.models.clear()
    await finish(world)
    assert list(world.store.models) == [trainer.state.position.step]


async def test_another_jobs_checkpoint_is_not_overwritten(world):
    await finish(world)
    world.training = replace(TRAINING, seed=9)
    with pytest.raises(TopologyMismatch):
        await finish(world)


async def test_another_versions_checkpoint_is_not_overwritten(world, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(checkpoint, "_VERSION", "checkpoint/5")
        await finish(world)
    kept = dict(world.store.saved)
    with pytest.raises(AnotherVersion):
        await finish(world)
    assert world.store.saved == kept


async def test_diverged_training_is_rolled_back_and_resumed_with_half_the_learning_rate(world):
    world.training = replace(TRAINING, checkpoint_s=0)
    model = world.model()
    model.poisoned_from, model.poisoned_to = 20, 22
    trainer = await finish(world, model=model)
    lines = world.events("train.diverged")
    assert [(line["slowdowns"], line["goes_on"]) for line in lines] == [(1, True), (2, True)]
    assert all(line["restored_step"] <= line["step"] for line in lines)
    assert newest(world).slowdowns == trainer.state.slowdowns == 2
    all_samples = world.log.snapshot().num_samples - held_out(world)
    epochs = [(line["epoch"], line["samples"]) for line in world.events("train.epoch")]
    assert epochs == [(0, all_samples), (1, all_samples)]


async def test_diverged_live_training_resumes_at_the_checkpoint(world):
    world.training = replace(TRAINING, source="live", live_epoch=40, checkpoint_s=0)
    model, live = world.model(), world.live_window()
    model.poisoned_from, model.poisoned_to = 5, 6
    trainer = world.trainer(model=model, live=live)
    task = asyncio.create_task(trainer.run())
    await asyncio.sleep(1)
    await put(world, live, 10)
    await reach(trainer, full_batches(10))
    (line,) = world.events("train.diverged")
    assert line["restored_step"] == line["step"] == 4
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_all_random_choices_are_the_same_after_a_kill(world):
    """Adam, a schedule, augmentation and dropout: killed at random steps, the weights end bit for bit the same."""
    training = replace(
        TRAINING,
        model=(Flatten(), Dense(6, "relu"), Dropout(0.3), Dense(3)),
        optimizer=Adam(0.01),
        schedule=Cosine(warmup=0.3),
        augment=Augment("both", shift=1),
        weight_decay=0.01,
        clip_norm=1.0,
        checkpoint_s=0,
    )
    whole = bits((await finish(World(training=training))).state.params)
    rng = np.random.default_rng(5)
    world.training = training
    for _ in range(50):
        model = world.model()
        model.crash_at = int(rng.integers(1, 12))
        try:
            trainer = await finish(world, model=model)
        except CrashError:
            continue
        break
    assert len(world.events("train.started")) > 3
    assert bits(trainer.state.params) == whole


async def test_killed_while_another_lane_assembles_what_comes_next_the_bits_are_the_same(world):
    training = replace(TRAINING, augment=Augment("both", shift=1), checkpoint_s=0)

    def model() -> CrashingModel:
        return CrashingModel(STREAM.shape, training.model, micro_batch=2, lanes=2)

    whole = bits((await finish(World(training=training), model=model())).state.params)
    rng = np.random.default_rng(5)
    world.training = training
    with ThreadPoolExecutor(2) as executor:
        for _ in range(50):
            crashing = model()
            crashing.crash_at = int(rng.integers(2, 12))
            try:
                trainer = await finish(world, model=crashing, executor=executor)
            except CrashError:
                continue
            break
    assert len(world.events("train.started")) > 3
    assert bits(trainer.state.params) == whole


async def test_an_autoencoder_is_trained_on_samples_without_labels(world):
    world.training = replace(TRAINING, model=(Flatten(), Dense(2), Dense(4)), loss="mean_squared_error", epochs=20)
    world.log.blocks = {ref: make_pack(i, 20, unlabelled=range(20)) for i, ref in enumerate(world.log.blocks)}
    trainer = await finish(world)
    lines = world.events("train.epoch")
    assert lines[-1]["test_loss"] < 0.7 * lines[0]["test_loss"]
    assert "train_accuracy" not in lines[0]
    assert "test_accuracy" not in lines[0]
    assert world.events("epoch.skipped") == []
    assert trainer.state.position.epoch == 20


async def test_an_autoencoders_model_is_deployed_with_the_threshold_of_its_anomaly_scores(world):
    world.training = replace(TRAINING, model=(Flatten(), Dense(2), Dense(4)), loss="mean_squared_error")
    await finish(world)
    line = world.events("train.epoch")[-1]
    model = world.store.newest_model()
    assert model.labels == ()
    assert model.anomaly_threshold == pytest.approx(line["anomaly_threshold"], abs=1e-6)
    assert line["anomaly_threshold"] > line["test_loss"] > 0


async def test_the_threshold_survives_a_crash_between_saving_and_deploying(world):
    world.training = replace(TRAINING, model=(Flatten(), Dense(2), Dense(4)), loss="mean_squared_error")
    await finish(world)
    deployed = world.store.newest_model()
    del world.store.models[deployed.generation]
    await finish(world)
    assert world.store.newest_model() == deployed


async def test_training_that_keeps_diverging_stops_without_ending_the_process(world):
    model = world.model()
    model.poisoned_from = 20
    trainer = world.trainer(model=model)
    await give_up(world, trainer)
    lines = world.events("train.diverged")
    assert [line["goes_on"] for line in lines] == [True, True, True, False]
    assert trainer.state.is_finite()
    assert lines[-1]["restored_step"] == trainer.state.position.step <= lines[-1]["step"]


async def test_weights_that_overflow_are_never_saved(world):
    world.training = replace(TRAINING, optimizer=Sgd(1e38), epochs=3, checkpoint_s=0)
    trainer = world.trainer()
    await give_up(world, trainer)
    assert world.events("train.diverged")
    assert trainer.state.is_finite()
    assert all(checkpoint.decode(blob, job=world.job).is_finite() for _, blob in world.store.checkpoints())


async def test_stopped_while_it_is_rolled_back_what_diverged_is_not_saved(world, monkeypatch):
    world.training = replace(TRAINING, optimizer=Sgd(1e38))
    loop, task, restore = (
        asyncio.get_running_loop(),
        asyncio.create_task(world.trainer().run()),
        world.store.checkpoints,
    )
    restored = []

    def stop_the_second_time():
        restored.append(True)
        if len(restored) == 2:
            loop.call_soon_threadsafe(task.cancel)
        return restore()

    monkeypatch.setattr(world.store, "checkpoints", stop_the_second_time)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(restored) == 2
    assert not world.events("train.diverged")
    assert not world.store.saved


async def test_progress_shows_work_and_idleness(world):
    world.log.is_silent = True
    trainer = world.trainer()
    task = asyncio.create_task(trainer.run())
    await asyncio.sleep(60)
    assert trainer.progress().idle
    assert trainer.progress().steps == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.log.is_silent = False
    trainer = await finish(world)
    assert trainer.progress().steps > trainer.state.position.step  # the tests too
    assert trainer.statistics().trained_samples == sum(line["samples"] for line in world.events("train.epoch"))


async def test_progress_is_seen_within_a_mini_batch_for_one_may_take_minutes(world):
    risen: list[int] = []

    class Watched(Model):
        def gradient(self, *args: Any, **options: Any) -> Gradient:
            before = trainer.progress().steps
            gradient = super().gradient(*args, **options)
            risen.append(trainer.progress().steps - before)
            return gradient

    trainer = world.trainer(model=Watched(STREAM.shape, TRAINING.model, micro_batch=4))
    await run_until(trainer, lambda: world.num_finished > 0)
    assert risen
    assert set(risen) <= set(range(1, TRAINING.global_batch + 1))


async def test_waiting_is_measured(world):
    world.log.is_silent = True
    trainer = world.trainer()
    task = asyncio.create_task(trainer.run())
    await asyncio.sleep(5)
    world.log.is_silent = False
    for request in world.log.requests:
        await world.log.answer(request)
    await until(lambda: bool(world.events("train.epoch")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (line, *_) = world.events("train.epoch")
    assert line["wait_s"] == pytest.approx(5, abs=0.5)
    assert line["wait_fraction"] > 0.5
    assert trainer.statistics().wait_s >= 4.5


async def put(world: World, live: LiveWindow, count: int, *, rows: int = 20) -> None:
    for _ in range(count):
        pack = make_pack(len(world.log.records(LIVE)), rows)
        (offset,) = await world.log.append([Message(LIVE, packs.encode(pack))])
        live.put(offset, pack)


async def test_live_training_uses_each_sample_once_and_never_ends(world):
    world.training = replace(TRAINING, source="live", live_epoch=40)
    live = world.live_window()
    trainer = world.trainer(live=live)
    task = asyncio.create_task(trainer.run())
    await asyncio.sleep(1)
    for count in (10, 20):
        await put(world, live, 10)
        await reach(trainer, full_batches(count))
        await asyncio.sleep(5)
        assert trainer.state.position.step == full_batches(count)
        assert len(world.events("train.epoch")) == full_batches(count) * 8 // 40
    assert all(line["test_samples"] for line in world.events("train.epoch"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_live_training_resumes_after_the_last_sample_trained(world):
    training = replace(TRAINING, source="live")
    whole, halves = World(training=training), World(training=training)
    for each, stop in ((whole, full_batches(10)), (halves, 5)):
        live = each.live_window()
        trainer = each.trainer(live=live)
        task = asyncio.create_task(trainer.run())
        await asyncio.sleep(1)
        await put(each, live, 10)
        await reach(trainer, stop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    again = halves.trainer(live=halves.live_window())
    await run_until(again, lambda: again.state.position.step == full_batches(10))
    assert again.state.position == newest(whole).position
    assert bits(again.state.params) == bits(newest(whole).params)


def full_batches(num_packs: int, *, rows: int = 20) -> int:
    """The number of mini-batches of 8 in the first live packs."""
    return sum(int((~dataset.test_rows("pi-a", offset, rows, 0.2)).sum()) for offset in range(num_packs)) // 8


class PausingModel(Model):
    """Blocks in its third step until `released`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.released = threading.Event()
        self._steps = 0

    def gradient(self, *args: Any, **options: Any) -> Gradient:
        self._steps += 1
        if self._steps == 3:
            self.released.wait()
        return super().gradient(*args, **options)


async def all_by(backend: Backend | None, **changes) -> dict[str, bytes]:
    """The weights in the end where this backend computes everything."""
    return bits((await finish(World(training=replace(TRAINING, **changes), backend=backend))).state.params)


async def begun_by_numpy(step: int, **options) -> World:
    """A world whose job was stopped after this step of its first epoch, with numpy."""
    begun = World(**options)
    stopped = begun.trainer()
    await run_until(stopped, lambda: stopped.state.position.step >= step)
    assert stopped.state.position.epoch == 0
    begun.backend = OtherBackend()
    return begun


async def test_a_running_job_takes_up_another_backend_where_an_epoch_begins(world):
    weights = []
    for step in (1, 5):
        begun = await begun_by_numpy(step)
        trainer = await finish(begun)
        [taken_up] = begun.events("train.backend")
        assert (taken_up["level"], taken_up["epoch"], taken_up["backend"]) == ("info", 1, "other/1")
        assert taken_up["former"] == begun.events("train.started")[-1]["backend"] == "numpy"
        assert trainer.state.division.backend == "other/1"
        weights.append(bits(trainer.state.params))
    assert weights[0] == weights[1]
    assert weights[0] not in [await all_by(None), await all_by(OtherBackend())]


async def test_another_backend_is_taken_up_with_the_division_that_was_measured_for_it(world):
    begun = await begun_by_numpy(3)
    model = Model(STREAM.shape, TRAINING.model, micro_batch=3, lanes=2, backend=OtherBackend())
    trainer = await finish(begun, model=model)
    assert begun.events("train.started")[-1]["micro_batch"] == 4
    assert trainer.state.division == Division(2, 3, "other/1")


async def test_killed_at_random_steps_before_and_after_the_change_of_backend_the_bits_are_the_same(world):
    training = replace(TRAINING, epochs=3, checkpoint_s=0)  # each step
    whole = bits((await finish(await begun_by_numpy(2, training=replace(training, checkpoint_s=1e9)))).state.params)
    world = await begun_by_numpy(2, training=training)
    rng = np.random.default_rng(3)
    for _ in range(200):
        model = world.model()
        model.crash_at = int(rng.integers(1, 7))
        try:
            trainer = await finish(world, model=model)
        except CrashError:
            continue
        break
    assert len(world.events("train.started")) > 5
    assert [line["epoch"] for line in world.events("train.backend")] == [1]
    assert bits(trainer.state.params) == whole


async def test_where_the_backend_of_a_begun_epoch_is_gone_training_goes_on_without_it_and_says_so(world):
    world.backend = OtherBackend()
    stopped = world.trainer()
    await run_until(stopped, lambda: stopped.state.position.step >= 3)
    step = stopped.state.position.step
    world.backend = None
    trainer = await finish(world)
    [gone] = world.events("train.backend")
    assert (gone["level"], gone["step"], gone["backend"], gone["former"]) == ("warning", step, "numpy", "other/1")
    assert [line["backend"] for line in world.events("train.started")] == ["other/1", "numpy"]
    assert [line["epoch"] for line in world.events("train.epoch")] == [0, 1]
    assert trainer.state.division.backend == "numpy"
    assert world.events("epoch.redrawn") == []


async def test_after_a_rollback_over_the_change_of_backend_the_epoch_takes_it_up_again(world):
    begun = await begun_by_numpy(3)
    model = begun.model()
    model.poisoned_from, model.poisoned_to = 20, 21  # in the second epoch
    trainer = await finish(begun, model=model)
    assert len(begun.events("train.diverged")) == 1
    assert [line["epoch"] for line in begun.events("train.backend")] == [1, 1]
    assert trainer.state.division.backend == "other/1"


async def test_live_training_takes_up_another_backend_after_so_many_samples_as_an_epoch_has(world):
    world.training = replace(TRAINING, source="live", live_epoch=16)
    for backend, step in ((None, 1), (OtherBackend(), full_batches(6))):
        world.backend = backend
        live = world.live_window()
        trainer = world.trainer(live=live)
        task = asyncio.create_task(trainer.run())
        await asyncio.sleep(1)
        await put(world, live, 1 if backend is None else 5)
        await reach(trainer, step)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    [taken_up] = world.events("train.backend")
    assert (taken_up["level"], taken_up["epoch"], taken_up["step"]) == ("info", 1, 2)


async def test_live_samples_are_trained_between_those_of_the_archive(real_threads, world):
    world.training = replace(TRAINING, source="both", epochs=3)
    live = world.live_window()
    await put(world, live, 2)  # before the first start: the archive's matter
    alone = (await finish(World(training=replace(TRAINING, epochs=3)))).state.position.step
    model = PausingModel((2, 2, 1), TRAINING.model, micro_batch=4)
    trainer = world.trainer(model=model, live=live)
    task = asyncio.create_task(trainer.run())
    await until(lambda: trainer.state.position.step >= 2)
    await put(world, live, 3)
    model.released.set()
    await until(lambda: bool(world.events("train.finished")))
    live_steps = trainer.state.position.step - alone
    assert 4 <= live_steps <= 7
    assert trainer.state.position.live_offset >= 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_lanes_on_an_executor_give_the_same_bits(world):
    def model() -> Model:
        return Model((2, 2, 1), TRAINING.model, micro_batch=4, lanes=2)

    alone = await finish(World(), model=model())
    with ThreadPoolExecutor(2) as executor:
        together = world.trainer(model=model(), executor=executor)
        await run_until(together, lambda: bool(world.events("train.finished")))
    assert bits(together.state.params) == bits(alone.state.params)


async def test_samples_whose_loss_alone_is_not_finite_are_left_out_by_name_and_training_goes_on(world):
    blocks = {f"toy/{ref.source}/{ref.offset}": pack for ref, pack in world.log.blocks.items()}
    dark = {
        f"{block}/{row}"
        for block, pack in blocks.items()
        for row, sample in enumerate(pack.samples)
        if max(sample.payload) < 40
    }
    model = world.model()
    model.dark_losses = 40 / 255

    trainer = await finish(world, model=model)

    assert world.events("train.diverged") == []
    assert trainer.state.is_finite()
    lines = world.events("train.left_out")
    assert lines
    assert {line["reason"] for line in lines} == {"loss_not_finite"}
    assert {line["address"] for line in lines} <= dark
    assert all(np.isfinite(line["loss"]) for line in world.events("train.epoch"))
    counted = sum(line["samples"] for line in world.events("train.epoch"))
    statistics = trainer.statistics()
    assert statistics.trained_samples == counted
    assert statistics.refused_samples == len(lines)


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_is_put_into_quarantine_because_training_diverges_is_out_of_the_epoch_that_begins_again(
    world, restarts
):
    """Also of a job that had given up: its checkpoint is of the middle of that epoch, with the samples in it."""
    world.training = replace(TRAINING, checkpoint_s=0)
    dark = {
        ref: np.array([max(sample.payload) < 40 for sample in pack.samples] + [False] * (256 - len(pack.samples)))
        for ref, pack in world.log.blocks.items()
    }
    dark = {ref: mask for ref, mask in dark.items() if mask.any()}
    model = world.model()
    model.spoilt_by = 40 / 255
    if restarts:
        trainer = world.trainer(model=model)
        await give_up(world, trainer)
        assert not world.events("train.diverged")[-1]["goes_on"]
        world.log.quarantined = dark
    else:
        model.on_spoilt = lambda: setattr(world.log, "quarantined", dark)
    num_before = len(world.events("train.diverged"))

    trainer = await finish(world, model=model)

    assert len(world.events("train.diverged")) == num_before + 1
    assert trainer.state.position.epoch == world.training.epochs
    drawn = [line["quarantined"] for line in world.events("epoch.drawn")]
    assert drawn[-1] == sum(int(mask.sum()) for mask in dark.values())
    assert world.events("epoch.redrawn")


async def test_the_sample_that_explodes_training_is_named(world):
    (ref, pack) = next((ref, pack) for ref, pack in world.log.blocks.items() if ref.source == "_train.toy")
    sample = replace(pack.samples[3], payload=bytes([1, 2, 3, 4]))
    samples = (*pack.samples[:3], sample, *pack.samples[4:])
    world.log.blocks[ref] = replace(pack, samples=samples)
    model = world.model()
    gradient = model.gradient

    def explodes(*args, **options):
        result = gradient(*args, **options)
        has_it = np.isclose(args[1].max(axis=(1, 2, 3)), 4 / 255)
        if has_it.any():
            result.losses[has_it] = 1e30
            for array in result.grads.values():
                array[...] = np.inf
        return result

    model.gradient = explodes
    trainer = world.trainer(model=model)
    await give_up(world, trainer)

    lines = world.events("train.diverged")
    assert len(lines) == 4
    assert {line["suspect"] for line in lines} == {f"toy/_train.toy/{ref.offset}/3"}
