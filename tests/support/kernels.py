"""The compiled kernels, for tests that need them, and for those that pass with and without."""

from typing import Any, Literal

import pytest

from edged.adapters.kernels.backend import compiled
from edged.domain.nn import model
from edged.domain.nn.backend import Backend
from edged.domain.nn.layer import Layer
from edged.domain.nn.layers import make_layers
from edged.errors import KernelsUnavailable
from tests.support.requirements import require

CHOICES = ("numpy", "compiled")
chosen: Literal["numpy", "compiled"] | None = None
"""By the option `--kernels`; None: compiled ones where they are built."""


def required_kernels() -> Backend:
    """Those of this machine; ends the test where they are not built."""
    try:
        return compiled()
    except KernelsUnavailable as reason:
        require(f"compiled kernels: {reason}")


def chosen_backend() -> Backend | None:
    """For a test that passes by any; ends it where kernels are asked for and not built."""
    if chosen == "compiled":
        return required_kernels()
    try:
        return None if chosen == "numpy" else compiled()
    except KernelsUnavailable:
        return None


def chosen_setting() -> str:
    """The value of `training.kernels` in the topology of such a test."""
    return "numpy" if chosen_backend() is None else "auto"


def compute_by_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the monkeypatch ends, models without a backend of their own are computed by the chosen one."""
    chosen = chosen_backend()

    def made(*args: Any, backend: Backend | None = None, **options: Any) -> list[Layer]:
        return make_layers(*args, backend=backend or chosen, **options)

    monkeypatch.setattr(model, "make_layers", made)
