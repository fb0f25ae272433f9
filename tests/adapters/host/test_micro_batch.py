"""The micro-batch's size: measured once for each model and machine, and never a reason to fail."""

import json

import numpy as np
import pytest

from edged.adapters.host import micro_batch
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec

LAYERS: tuple[LayerSpec, ...] = (Conv2d(4, (3, 3)), Flatten(), Dense(3))
SHAPE = (8, 8, 1)


@pytest.fixture
def measurements(monkeypatch):
    """The arguments of each measurement."""
    calls = []
    measure = micro_batch.measured

    def counted(*args):
        calls.append(args)
        return measure(*args)

    monkeypatch.setattr(micro_batch, "measured", counted)
    return calls


def test_what_was_measured_is_remembered(tmp_path, measurements):
    first = micro_batch.tuned(SHAPE, LAYERS, tmp_path / "cache", most=16)
    assert first in micro_batch.CANDIDATES
    assert first <= 16
    assert micro_batch.tuned(SHAPE, LAYERS, tmp_path / "cache", most=16) == first
    assert len(measurements) == 1


def test_another_model_batch_or_numpy_is_measured_for_itself(tmp_path, measurements, monkeypatch):
    micro_batch.tuned(SHAPE, LAYERS, tmp_path, most=16)
    micro_batch.tuned(SHAPE, LAYERS[1:], tmp_path, most=16)
    micro_batch.tuned(SHAPE, LAYERS, tmp_path, most=8)
    monkeypatch.setattr(np, "__version__", "99")
    micro_batch.tuned(SHAPE, LAYERS, tmp_path, most=16)
    assert len(measurements) == 4


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"KEY": 7}', b'{"KEY": "8"}', b'{"KEY": [8]}']
)
def test_a_file_that_is_torn_or_wrong_is_measured_anew_and_mended(tmp_path, measurements, content):
    file = tmp_path / "micro-batch.json"
    file.write_bytes(content.replace(b"KEY", micro_batch._key(SHAPE, LAYERS, 16).encode()))
    found = micro_batch.tuned(SHAPE, LAYERS, tmp_path, most=16)
    assert len(measurements) == 1
    assert json.loads(file.read_text())[micro_batch._key(SHAPE, LAYERS, 16)] == found


def test_without_a_folder_to_write_to_it_still_answers(tmp_path):
    (tmp_path / "file").touch()
    assert micro_batch.tuned(SHAPE, LAYERS, tmp_path / "file" / "cache", most=16) in micro_batch.CANDIDATES


def test_large_samples_are_not_tried_in_large_micro_batches(tmp_path):
    layers: tuple[LayerSpec, ...] = (Conv2d(16, (3, 3), padding="same"), Flatten(), Dense(2))
    assert micro_batch.tuned((256, 256, 3), layers, tmp_path, most=64) == micro_batch.CANDIDATES[0]
