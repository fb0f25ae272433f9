"""Text as others write it: the one normal form of labels, and how what cannot be seen is shown.

Texts that look the same may differ: a Mac decomposes the ö of a file's name, an editor begins a file with a byte order
mark, a copied word brings a zero-width space along. Covers neither upper and lower case, which can be seen, nor letters
of two scripts that look alike. See also: Unicode Standard Annex 15 (NFC), RFC 5892, appendix A (joiners).
"""

import re
import unicodedata
from collections.abc import Iterable

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point: what is drawn as nothing."""
_VIRAMA = 9
"""The combining class of the sign that joins consonants in scripts of India."""
_FLAG, _TAG = "\U0001f3f4", re.compile("[\U000e0020-\U000e007f]")
"""Tags behind a flag spell whose it is."""


def normal_form(text: str) -> str:
    """`text` in NFC, without invisible characters and without blanks at its ends: equal for all that look the same.

    Joiners stay where they change what one sees: inside emoji, between Arabic letters, behind a virama.
    """
    if text.isascii():
        return text.strip()
    while (stripped := _once(text)) != text:  # what is taken out may bring together what composes
        text = stripped
    return text


def shown(text: str, *, beside: Iterable[str] = ()) -> str:
    r"""`text` for a message, with all that cannot be seen as escapes (\u200b), so that what differs looks different.

    What is merely decomposed looks as it should, and stays; but for a text that looks the same as another one `beside`
    it in the message, and is not.
    """
    if text.isascii() and text.isprintable():
        return text
    composed = unicodedata.normalize("NFC", text)
    with_marks = composed != text and any(
        each != text and unicodedata.normalize("NFC", each) == composed for each in beside
    )
    return "".join(_escape(each) if _is_hidden(each, with_marks=with_marks) else each for each in text)


def _once(text: str) -> str:
    composed = unicodedata.normalize("NFC", text)
    if not _INVISIBLE.search(composed):
        return composed.strip()
    kept: list[str] = []
    for at, each in enumerate(composed):
        if not _INVISIBLE.match(each) or (kept and _is_part_of(kept[-1], each, composed[at + 1 : at + 2])):
            kept.append(each)
    return unicodedata.normalize("NFC", "".join(kept)).strip()


def _is_part_of(before: str, invisible: str, after: str) -> bool:
    """Whether the invisible character changes how its neighbours are drawn."""
    if _TAG.match(invisible):
        return before == _FLAG or _TAG.match(before) is not None
    if invisible not in "\u200c\u200d" or not after:
        return False
    is_arabic = all(unicodedata.bidirectional(each) == "AL" for each in (before, after))
    is_emoji = unicodedata.category(before) in {"So", "Sk"} and unicodedata.category(after) == "So"
    return is_arabic or is_emoji or unicodedata.combining(before) == _VIRAMA


def _is_hidden(character: str, *, with_marks: bool) -> bool:
    is_mark = with_marks and unicodedata.combining(character) != 0
    return is_mark or not character.isprintable() or _INVISIBLE.match(character) is not None


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
