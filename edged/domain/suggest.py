"""Nearest words for mistyped ones."""

from collections.abc import Iterable
from difflib import SequenceMatcher

_MIN_RATIO = 0.6
_LONGEST = 64


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'did you mean "pi-a"?' for the known word most like `word`; empty when none is like it."""
    best = nearest(word, known)
    return f'did you mean "{best}"?' if best else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like `word`, the first of equals; empty when none is like it."""
    best, best_ratio = "", _MIN_RATIO
    for candidate in known:
        ratio = SequenceMatcher(None, word[:_LONGEST].lower(), candidate[:_LONGEST].lower()).ratio()
        if candidate and (ratio > best_ratio or (ratio == best_ratio and not best)):
            best, best_ratio = candidate, ratio
    return best
