"""The micro-batch's size: measured once for each model and machine, and never a reason to fail."""

import json

import numpy as np
import pytest

from edged.adapters.host import micro_batch
from edged.domain.nn.micro_batch import SIZES
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec
from tests.support.other_backend import OtherBackend

LAYERS: tuple[LayerSpec, ...] = (Conv2d(4, (3, 3)), Flatten(), Dense(3))
SHAPE = (8, 8, 1)


@pytest.fixture
def measurements(monkeypatch):
    """The arguments of each measurement."""
    calls = []
    measure = micro_batch.measure

    def counted(*args):
        calls.append(args)
        return measure(*args)

    monkeypatch.setattr(micro_batch, "measure", counted)
    return calls


def test_a_measurement_is_cached(tmp_path, measurements):
    first = micro_batch.fastest(SHAPE, LAYERS, tmp_path / "cache", batch_size=16)
    assert first in SIZES
    assert first <= 16
    assert micro_batch.fastest(SHAPE, LAYERS, tmp_path / "cache", batch_size=16) == first
    assert len(measurements) == 1


def test_another_model_batch_numpy_or_backend_is_measured_separately(tmp_path, measurements, monkeypatch):
    micro_batch.fastest(SHAPE, LAYERS, tmp_path, batch_size=16)
    micro_batch.fastest(SHAPE, LAYERS[1:], tmp_path, batch_size=16)
    micro_batch.fastest(SHAPE, LAYERS, tmp_path, batch_size=8)
    monkeypatch.setattr(np, "__version__", "99")
    micro_batch.fastest(SHAPE, LAYERS, tmp_path, batch_size=16)
    micro_batch.fastest(SHAPE, LAYERS, tmp_path, batch_size=16, backend=OtherBackend())
    assert len(measurements) == 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b'{"KEY": 7}',
        b'{"KEY": "8"}',
        b'{"KEY": [8]}',
        b'{"KEY": 8.0}',
        b"[" * 9999,
    ],
    ids=lambda content: content[:20].decode(errors="replace"),
)
def test_an_invalid_file_is_measured_again_and_repaired(tmp_path, measurements, content):
    file = tmp_path / "micro-batch.json"
    file.write_bytes(content.replace(b"KEY", micro_batch._key(SHAPE, LAYERS, 16, None).encode()))
    found = micro_batch.fastest(SHAPE, LAYERS, tmp_path, batch_size=16)
    assert len(measurements) == 1
    assert json.loads(file.read_text())[micro_batch._key(SHAPE, LAYERS, 16, None)] == found


def test_without_a_writable_folder_it_still_returns_a_size(tmp_path):
    (tmp_path / "file").touch()
    assert micro_batch.fastest(SHAPE, LAYERS, tmp_path / "file" / "cache", batch_size=16) in SIZES


def test_large_samples_are_not_tried_in_large_micro_batches(tmp_path):
    layers: tuple[LayerSpec, ...] = (Conv2d(16, (3, 3), padding="same"), Flatten(), Dense(2))
    assert micro_batch.fastest((256, 256, 3), layers, tmp_path, batch_size=64) == SIZES[0]
