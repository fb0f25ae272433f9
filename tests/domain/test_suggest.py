"""The nearest word for a mistyped one."""

import pytest

from edged.domain.suggest import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("pi-x", ["pi-a", "pi-b"], 'did you mean "pi-a"?'),
        ("pi-bb", ["pi-a", "pi-b"], 'did you mean "pi-b"?'),
        ("PI-B", ["pi-a", "pi-b"], 'did you mean "pi-b"?'),
        ("vault", ["pi-a", "pi-b"], ""),
        ("", ["pi-a", ""], ""),
        ("x", [], ""),
    ],
)
def test_the_first_of_the_nearest_words_is_suggested_and_nothing_far_fetched(word, known, expected):
    assert did_you_mean(word, known) == expected
