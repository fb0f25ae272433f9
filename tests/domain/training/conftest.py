"""These tests are of whatever computes a model's layers, not of the reference alone."""

import pytest

from tests.support import kernels


@pytest.fixture(autouse=True)
def by_any_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--kernels` says."""
    kernels.compute_by_chosen(monkeypatch)
