"""The contract of ports.CheckpointStore."""

import pytest

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.memory.checkpoints import MemoryCheckpoints
from edged.ports import CheckpointStore, DeployedModel


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path) -> CheckpointStore:
    return MemoryCheckpoints() if request.param == "memory" else CheckpointDir(tmp_path / "edged" / "pi-a")


def model(generation: int, content: bytes = b"tflite") -> DeployedModel:
    return DeployedModel(generation, content, ("a", "b"), (2, 2, 1))


def test_an_empty_store_has_nothing(store):
    assert list(store.checkpoints()) == []
    assert store.newest_model() is None
    assert store.sampler_state(0) is None


def test_checkpoints_are_listed_newest_first(store):
    for generation in (1, 2, 10):
        store.save(b"%d" % generation, generation)
    assert list(store.checkpoints()) == [(10, b"10"), (2, b"2"), (1, b"1")]


def test_three_are_kept(store):
    for generation in range(7):
        store.save(b"c", generation)
        store.deploy(model(generation))
    assert [generation for generation, _ in store.checkpoints()] == [6, 5, 4]


def test_saving_a_generation_again_replaces_it(store):
    store.save(b"old", 5)
    store.save(b"new", 5)
    assert list(store.checkpoints()) == [(5, b"new")]


def test_the_last_saved_checkpoint_is_the_newest(store):
    """After a rollback to an older checkpoint the later ones never return."""
    for generation in (100, 200, 300):
        store.save(b"torn", generation)
    store.save(b"good", 150)
    assert list(store.checkpoints()) == [(150, b"good"), (100, b"torn")]


def test_a_checkpoint_that_was_set_aside_counts_no_more(store):
    for generation in (1, 2, 3):
        store.save(b"%d" % generation, generation)
    store.set_aside(2)
    store.set_aside(3)
    assert list(store.checkpoints()) == [(1, b"1")]


def test_the_newest_model_is_complete(store):
    store.deploy(model(3))
    store.deploy(model(7, b"seven"))
    assert store.newest_model() == model(7, b"seven")
    assert store.newest_model(newer_than=6) == model(7, b"seven")
    assert store.newest_model(newer_than=7) is None


def test_an_autoencoders_threshold_is_kept(store):
    autoencoder = DeployedModel(1, b"tflite", (), (2, 2, 1), 0.125)
    store.deploy(autoencoder)
    assert store.newest_model() == autoencoder


def test_deploying_a_generation_again_replaces_it(store):
    store.deploy(model(3))
    store.deploy(model(3, b"again"))
    assert store.newest_model() == model(3, b"again")


def test_a_sampler_state_is_found_by_its_epoch(store):
    store.save_sampler_state(b"three", 3)
    store.save_sampler_state(b"four", 4)
    assert [store.sampler_state(epoch) for epoch in (2, 3, 4, 5)] == [None, b"three", b"four", None]


def test_three_sampler_states_are_kept(store):
    """As many as checkpoints, each of which needs the sampler state of its epoch."""
    for epoch in range(7):
        store.save_sampler_state(b"m", epoch)
    assert [epoch for epoch in range(10) if store.sampler_state(epoch)] == [4, 5, 6]


def test_saving_a_sampler_state_again_replaces_it(store):
    store.save_sampler_state(b"old", 5)
    store.save_sampler_state(b"new", 5)
    assert store.sampler_state(5) == b"new"


def test_sampler_states_of_an_abandoned_history_are_deleted(store):
    for epoch in (7, 8, 9):
        store.save_sampler_state(b"old", epoch)
    store.save_sampler_state(b"new", 8)
    assert [store.sampler_state(epoch) for epoch in (7, 8, 9)] == [b"old", b"new", None]


def test_sampler_states_and_checkpoints_do_not_evict_each_other(store):
    store.save_sampler_state(b"state", 1)
    for generation in range(5):
        store.save(b"checkpoint", 100 + generation)
    for epoch in range(2, 4):
        store.save_sampler_state(b"state", epoch)
    assert store.sampler_state(1) == b"state"
    assert [generation for generation, _ in store.checkpoints()] == [104, 103, 102]
