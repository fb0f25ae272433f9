"""Which backend a process computes by, and what it says of it."""

import pytest

from edged.app import kernels
from edged.errors import KernelsUnavailable
from tests.support.other_backend import OtherBackend


@pytest.fixture(autouse=True)
def first_time():
    kernels.fastest_backend.cache_clear()
    yield
    kernels.fastest_backend.cache_clear()


def test_the_kernels_compute_where_they_are(log_lines, monkeypatch):
    monkeypatch.setattr(kernels, "compiled", OtherBackend)
    chosen = kernels.fastest_backend()
    assert chosen is not None
    assert chosen.name == "other/1"
    assert [(line["backend"], line["instructions"]) for line in log_lines("kernels.loaded")] == [("other/1", "none")]
    assert not log_lines("kernels.left_out")


def test_better_ones_that_are_left_out_are_told(log_lines, monkeypatch):
    monkeypatch.setattr(kernels, "compiled", lambda: OtherBackend(left_out=("v4.so is damaged",)))
    assert kernels.fastest_backend() is not None
    assert [(line["level"], line["reason"]) for line in log_lines("kernels.left_out")] == [
        ("warning", "v4.so is damaged")
    ]


def test_without_them_numpy_computes_and_the_reason_is_logged_once(log_lines, monkeypatch):
    def compiled() -> OtherBackend:
        raise KernelsUnavailable("none was compiled: install gcc")

    monkeypatch.setattr(kernels, "compiled", compiled)
    assert [kernels.fastest_backend() for _ in range(2)] == [None, None]
    [line] = log_lines("kernels.unavailable")
    assert (line["level"], line["backend"], line["reason"]) == ("warning", "numpy", "none was compiled: install gcc")
