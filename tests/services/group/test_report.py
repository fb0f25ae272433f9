"""The rule of thumb for links."""

import pytest

from edged.services.group.report import advice


@pytest.mark.parametrize(
    ("exchange_s", "expected"), [(0.05, "none"), (0.2, "fp16"), (0.4, "int8"), (1.0, "top_k"), (3.0, "sync_every")]
)
def test_the_longer_the_exchange_takes_the_more_is_done_about_it(exchange_s, expected):
    assert advice(exchange_s, 1.0) == expected


def test_where_nothing_is_computed_the_exchange_is_all_there_is():
    assert advice(1.0, 0.0) == "sync_every"
