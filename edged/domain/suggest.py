"""Suggestions for mistyped words."""

from collections.abc import Iterable
from difflib import SequenceMatcher

_MIN_RATIO = 0.6
"""As difflib.get_close_matches."""

_MAX_LENGTH = 64


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'did you mean "pi-a"?' for the known word most like `word`; empty when none is close."""
    best = nearest(word, known)
    return f'did you mean "{best}"?' if best else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like `word`, without regard to case; empty when none is close.

    Of equally close words the first: difflib.get_close_matches would return the alphabetically last.
    """

    def ratio(candidate: str) -> float:
        return SequenceMatcher(None, word[:_MAX_LENGTH].lower(), candidate[:_MAX_LENGTH].lower()).ratio()

    best = max(filter(None, known), key=ratio, default="")
    return best if best and ratio(best) >= _MIN_RATIO else ""
