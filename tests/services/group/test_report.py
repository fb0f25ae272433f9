"""The sums of an epoch's exchange, and the advice drawn from them."""

from dataclasses import replace

import pytest

from edged.domain.group.records import Contribution
from edged.domain.group.state import Closed, Late, Rejected
from edged.services.group.report import Traffic, advice


@pytest.mark.parametrize(
    ("exchange_s", "expected"), [(0.05, "none"), (0.2, "fp16"), (0.4, "int8"), (1.0, "top_k"), (3.0, "sync_every")]
)
def test_the_slower_the_exchange_the_stronger_the_advice(exchange_s, expected):
    assert advice(exchange_s, 1.0) == expected


def test_without_computing_time_the_advice_is_to_exchange_less_often():
    assert advice(1.0, 0.0) == "sync_every"


def test_traffic_counts_closed_steps_and_late_gradients_alone():
    traffic = Traffic()
    contribution = Contribution("ash", 1, 0.5, 1)
    for action in (
        Closed(0, None, (contribution, replace(contribution, edge="birch")), ()),
        Closed(1, None, (contribution,), ("birch",)),
        Late("birch", 1, "0" * 8),
        Rejected("cedar", "wrong"),
    ):
        traffic.count(action)
    assert traffic == Traffic(steps=2, contributions=3, missed=1, late=1)
