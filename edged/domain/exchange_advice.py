"""What would suit a group's link: a rule of thumb by the share of a step that the exchange takes."""

from typing import Literal

Advice = Literal["none", "fp16", "int8", "top_k", "sync_every"]

_LADDER: tuple[tuple[float, Advice], ...] = ((0.1, "none"), (0.25, "fp16"), (0.5, "int8"), (2.0, "top_k"))


def advice(exchange_s: float, compute_s: float) -> Advice:
    """What to do where a step's exchange and its computing take so long.

    While the exchange is a tenth of the computing, nothing: the loss of exactness would gain little. Then compression,
    the stronger the longer it takes; when it takes twice as long as computing, steps that are exchanged more seldom.
    """
    ratio = exchange_s / max(compute_s, 1e-9)
    return next((what for most, what in _LADDER if ratio < most), "sync_every")
