"""Learning itself: small models trained for real, and steps that can be made again bit by bit."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from edged.domain.nn.model import Division, Model
from edged.domain.nn.spec import Conv1d, Dense, Dropout, Flatten, GlobalAvgPool, GroupNorm, MaxPool1d, Relu
from edged.domain.topology import Adam, Augment, Cosine, Lars, Sgd, Training
from edged.domain.training import checkpoint
from edged.domain.training.learner import EXPLODED_LOSS_RATIO, DivergedError, Learner
from edged.domain.training.state import EpochMetrics, TrainState
from tests.support.other_backend import OtherBackend

SERIES = (64, 2)
CLASSIFIER = Training(
    "vibration",
    (
        Conv1d(8, 7, 2, "same"),
        GroupNorm(2),
        Relu(),
        MaxPool1d(2, 2),
        Conv1d(16, 3, activation="relu"),
        GlobalAvgPool(),
        Dropout(0.1),
        Dense(3),
    ),
    epochs=8,
    global_batch=32,
    optimizer=Adam(0.01),
    schedule=Cosine(warmup=0.5),
    weight_decay=0.01,
    clip_norm=2.0,
    augment=Augment("horizontal", shift=5),
)
AUTOENCODER = Training(
    "vibration",
    (Flatten(), Dense(32, "relu"), Dense(4), Dense(32, "relu"), Dense(128)),
    loss="mean_squared_error",
    epochs=30,
    global_batch=32,
    optimizer=Adam(0.003),
)


def vibration(n: int, seed: int, classes: int = 3):
    """Two channels of a machine: its hum at a random phase; imbalance doubles its period, a bearing adds bursts."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    t = np.arange(SERIES[0])[None, :] + rng.uniform(0, 64, (n, 1))
    hum = np.sin(2 * np.pi * t / np.where(y == 1, 16, 8)[:, None])
    bursts = 2 * (np.mod(t, 13) < 1.5) * (y == 2)[:, None]
    x = np.stack([hum + bursts, 0.5 * hum - bursts], axis=2) + 0.2 * rng.standard_normal((n, *SERIES))
    return x.astype(np.float32), y


def train(training: Training, x, y, *, state: TrainState | None = None, steps: int | None = None, **options):
    """The learner and the state after `steps` steps, or all of the training's."""
    shape = x.shape[1:]
    learner = Learner(training, Model(shape, training.model, loss=training.loss, lanes=options.pop("lanes", 1)))
    state = state or learner.initial("test")
    a_epoch = len(x) // training.global_batch
    for step in range(state.position.step, training.epochs * a_epoch if steps is None else steps):
        epoch, batch = divmod(step, a_epoch)
        state.position = replace(state.position, epoch=epoch)
        rows = np.random.default_rng(epoch).permutation(len(x))[batch * training.global_batch :][
            : training.global_batch
        ]
        ones = np.ones(len(rows), np.float32)
        view = learner.views(x[rows], rows, state.position.epoch)
        learner.step(state, view, y[rows], ones, progress=step / a_epoch, **options)
    return learner, state


def bits(state: TrainState) -> bytes:
    return b"".join(array.tobytes() for arrays in (state.params, *state.slots.values()) for array in arrays.values())


def test_kinds_of_vibration_are_classified():
    learner, state = train(CLASSIFIER, *vibration(512, seed=0))
    x, y = vibration(300, seed=1)
    _, num_right = learner.test(state, x, y)
    assert num_right / len(y) > 0.95


def test_an_autoencoder_scores_unseen_kinds_of_samples_higher():
    """Trained on the hum alone, without labels; nine of ten faults lose more than nearly all good samples do."""
    x, _ = vibration(512, seed=0, classes=1)
    learner, state = train(AUTOENCODER, x, np.full(len(x), -1))
    test_x, y = vibration(300, seed=1)
    losses, _ = learner.test(state, test_x, y)
    limit = np.quantile(losses[y == 0], 0.95)
    assert (losses[y == 1] > limit).mean() > 0.9
    assert (losses[y == 2] > limit).mean() > 0.9


@pytest.mark.parametrize("optimizer", [Sgd(0.05, nesterov=True), Adam(0.01), Lars(1, trust=0.02)], ids=str)
def test_every_optimizer_learns(optimizer):
    x, y = vibration(256, seed=0)
    learner, state = train(replace(CLASSIFIER, optimizer=optimizer), x, y)
    assert learner.test(state, x, y)[1] / len(y) > 0.8


@pytest.mark.parametrize("optimizer", [Sgd(0.05), Adam(0.01), Lars(1, trust=0.02)], ids=str)
def test_training_interrupted_anywhere_ends_with_the_same_bits(optimizer):
    training, (x, y) = replace(CLASSIFIER, optimizer=optimizer), vibration(128, seed=0)
    _, whole = train(training, x, y, steps=11)
    _, state = train(training, x, y, steps=3)
    for stop in (4, 9, 11):
        state = checkpoint.decode(checkpoint.encode(state))
        _, state = train(training, x, y, state=state, steps=stop)
    assert bits(state) == bits(whole)
    assert state.tally == whole.tally


def test_threads_give_the_same_bits_as_lanes_run_in_turn():
    x, y = vibration(128, seed=0)
    _, alone = train(CLASSIFIER, x, y, steps=8, lanes=2)
    with ThreadPoolExecutor(2) as executor:
        _, together = train(CLASSIFIER, x, y, steps=8, lanes=2, map=executor.map)
    assert bits(together) == bits(alone)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"augment": Augment()},
        {"weight_decay": 0.0},
        {"clip_norm": None},
        {"schedule": Cosine(warmup=1)},
        {"class_weights": (1.0, 1.0, 2.0)},
    ],
    ids=str,
)
def test_every_setting_has_an_effect(change):
    x, y = vibration(128, seed=0)
    same = train(CLASSIFIER, x, y, steps=3)[1]
    assert bits(train(replace(CLASSIFIER, **change), x, y, steps=3)[1]) != bits(same)


def test_a_class_of_weight_zero_is_not_learnt():
    x, y = vibration(256, seed=0)
    learner, state = train(replace(CLASSIFIER, class_weights=(1.0, 1.0, 0.0)), x, y)
    assert learner.test(state, x[y == 2], y[y == 2])[1] == 0
    assert learner.test(state, x[y == 1], y[y == 1])[1] > 0


def test_a_slowdown_halves_the_step():
    training = Training("toy", (Dense(2),), optimizer=Sgd(1.0, momentum=0.0))
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 0])
    learner = Learner(training, Model((3,), training.model))
    changes = []
    for slowdowns in (0, 1):
        state = learner.initial("test")
        before, state.slowdowns = state.params["0.dense.kernel"].copy(), slowdowns
        learner.step(state, x, y, np.ones(len(x), np.float32), progress=0)
        changes.append(state.params["0.dense.kernel"] - before)
    np.testing.assert_allclose(changes[0], 2 * changes[1], rtol=1e-5)


@pytest.mark.parametrize("damage", ["not a number", "exploded"])
def test_a_diverged_loss_is_raised_before_anything_changes(damage):
    training = Training("toy", (Dense(2),))
    learner = Learner(training, Model((3,), training.model))
    state = learner.initial("test")
    if damage == "exploded":
        state.history = (EpochMetrics(0, 10, 0.5, 1.0, None, None),)
        state.params["0.dense.bias"][0] = EXPLODED_LOSS_RATIO  # of the wrong class, for one of the two
        state.params["0.dense.kernel"][:, 1] -= EXPLODED_LOSS_RATIO
    else:
        state.params["0.dense.bias"][0] = np.nan
    before = bits(state)
    with pytest.raises(DivergedError):
        learner.step(state, np.ones((2, 3), np.float32), np.array([0, 1]), np.ones(2, np.float32), progress=0)
    assert bits(state) == before
    assert state.position.step == 0


@pytest.mark.parametrize(
    ("training", "shape"),
    [(Training("toy", (Dense(2),)), (3,)), (AUTOENCODER, (64, 2))],
    ids=["classes", "autoencoder"],
)
def test_after_epochs_without_loss_what_a_model_begins_with_is_no_divergence(training, shape):
    learner = Learner(training, Model(shape, training.model, loss=training.loss))
    state = learner.initial("test")
    state.history = (EpochMetrics(0, 10, 0.0, 1.0, None, None),)
    learner.step(state, np.ones((2, *shape), np.float32), np.array([0, 1]), np.ones(2, np.float32), progress=0)
    assert state.position.step == 1


def test_when_samples_of_another_kind_come_after_perfect_epochs_it_learns_them():
    training = Training("toy", (Dense(2),))
    learner = Learner(training, Model((3,), training.model))
    state = learner.initial("test")
    state.history = tuple(EpochMetrics(epoch, 10, 1e-6, 1.0, None, None) for epoch in range(100))
    learner.step(state, np.ones((2, 3), np.float32), np.array([0, 1]), np.ones(2, np.float32), progress=0)
    assert state.position.step == 1


def test_a_single_unusual_sample_is_not_divergence():
    x, _ = vibration(96, seed=1)
    learner, state = train(replace(AUTOENCODER, clip_norm=1.0), x, np.zeros(96, np.int64), steps=30)
    state.history = (EpochMetrics(0, 30, 1.0, None, None, None),)
    x[3, 5] = 1e4  # a sensor's glitch, in the first of the three mini-batches
    for rows in np.arange(96).reshape(3, 32):
        learner.step(state, x[rows], np.zeros(32, np.int64), np.ones(32, np.float32), progress=10)
    assert state.position.step == 33
    assert state.is_finite()
    usual, _ = learner.test(state, np.delete(x, 3, 0), np.zeros(95, np.int64))
    assert usual.mean() < 1


def test_a_state_of_another_backend_is_computed_by_that_one_or_by_what_the_model_was_made_with():
    x, y = vibration(64, 0)
    shape, training = x.shape[1:], replace(CLASSIFIER, global_batch=64)
    learner = Learner(training, Model(shape, training.model, micro_batch=8, backend=OtherBackend()))
    plain = Learner(training, Model(shape, training.model, micro_batch=4))
    states = [plain.initial("test") for _ in range(2)]
    ones = np.ones(64, np.float32)

    assert learner.use(states[0], "numpy")
    for state, each in zip(states, (learner, plain), strict=True):
        each.step(state, x, y, ones, progress=0)
    assert states[0].division == Division(1, 4)
    assert bits(states[0]) == bits(states[1])

    assert learner.use(states[0], "other/1")
    assert states[0].division == Division(1, 8, "other/1")
    for state, each in zip(states, (learner, plain), strict=True):
        each.step(state, x, y, ones, progress=0)
    assert bits(states[0]) != bits(states[1])


def test_a_backend_that_is_not_here_is_not_used():
    learner = Learner(CLASSIFIER, Model(SERIES, CLASSIFIER.model, micro_batch=8))
    state = learner.initial("test")
    state.division = Division(2, 16, "other/1")

    assert not learner.use(state, "other/1")
    assert state.division == Division(2, 16, "other/1")
    assert learner.use(state, learner.backend)
    assert state.division == Division(1, 8)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_sample_of_infinite_loss_is_left_out_as_if_it_had_not_been_drawn(lanes):
    training = replace(AUTOENCODER, clip_norm=1.0)
    x, _ = vibration(9, seed=1)
    x[4, 5] = 3e38
    learner = Learner(training, Model(SERIES, training.model, loss=training.loss, lanes=lanes))
    with_it, without, others = learner.initial("test"), learner.initial("test"), np.delete(np.arange(9), 4)
    ones, none = np.ones(9, np.float32), np.zeros(9, np.int64)

    result = learner.step(with_it, x, none, ones, progress=0)
    learner.step(without, x[others], none[:8], ones[:8], progress=0)

    assert bits(with_it) == bits(without)
    assert with_it.tally == without.tally
    assert with_it.tally.num_samples == 8
    assert np.flatnonzero(~np.isfinite(result.losses)).tolist() == [4]
    assert np.flatnonzero(~np.isfinite(result.scores)).tolist() == [4]
    losses, _ = learner.test(with_it, x, none)
    assert np.flatnonzero(np.isnan(losses)).tolist() == [4]


def test_losses_of_which_none_is_finite_are_divergence():
    x = np.full((4, *SERIES), 3e38, np.float32)
    learner = Learner(AUTOENCODER, Model(SERIES, AUTOENCODER.model, loss=AUTOENCODER.loss))
    state = learner.initial("test")
    with pytest.raises(DivergedError):
        learner.step(state, x, np.zeros(4, np.int64), np.ones(4, np.float32), progress=0)
    with pytest.raises(DivergedError):
        learner.test(state, x, np.zeros(4, np.int64))


def test_a_rate_for_another_batch_size_is_scaled():
    x, y = vibration(64, seed=1)
    scaled = replace(CLASSIFIER, optimizer=Sgd(0.02), reference_batch=8)
    written_out = replace(CLASSIFIER, optimizer=Sgd(0.08))

    assert bits(train(scaled, x, y, steps=2)[1]) == bits(train(written_out, x, y, steps=2)[1])
