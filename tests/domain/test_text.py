"""One normal form for what looks the same, and escapes for what cannot be seen."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.text import normal_form, shown

MOEHRE = "M\u00f6hre"


@pytest.mark.parametrize(
    "written",
    [
        "Mo\u0308hre",  # as a Mac lists it
        "\ufeffM\u00f6hre",  # the first line of a file with a byte order mark
        "M\u00f6\u00adhre",  # a soft hyphen of a web page
        "M\u00f6h\u200bre\u200b",  # zero-width spaces
        "Mo\u200b\u0308hre",  # one between a letter and its mark
        "M\u00f6h\u200d\u200cre",  # joiners that join nothing here
        "\u202aM\u00f6hre\u202c",  # bidirectional marks
        "\u200eM\u00f6hre\u2060",
        " M\u00f6hre\t",
        "\u00a0M\u00f6hre\u3000\r\n",
        "M\u00f6hre\ufe0f",
        "M\u00f6\u034fhre",
    ],
    ids=ascii,
)
def test_what_looks_the_same_has_one_normal_form(written):
    assert normal_form(written) == MOEHRE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "boot",
        "t-shirt",
        MOEHRE,
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian: the non-joiner separates two letters
        "\u0915\u094d\u200d\u0937",  # Hindi: the joiner keeps the half form
        "\U0001f469\U0001f3fd\u200d\U0001f33e",  # a farmer
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # the flag of Scotland
        "x\u0304",  # a letter and a mark that never compose
        "a  b",
        "\u0430pple",  # a Cyrillic letter: another word, though one cannot tell
    ],
    ids=ascii,
)
def test_what_looks_different_stays(text):
    assert normal_form(text) == text


def test_upper_and_lower_case_can_be_told_apart():
    assert normal_form("Boot") != normal_form("boot")


@given(st.text(st.characters() | st.sampled_from("\u0308\u200b\u200d\u094d\ufe0f\u034f o\u0915\U0001f469\U000e0067")))
def test_the_normal_form_is_its_own(text):
    assert normal_form(normal_form(text)) == normal_form(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("boot", "boot"),
        (MOEHRE, MOEHRE),
        ("Mo\u0308hre", "Mo\u0308hre"),  # as a Mac writes it: it looks as it should
        ("Mo\u0308hre\u200b", "Mo\u0308hre\\u200b"),
        ("x\u0304", "x\u0304"),
        ("boot\u200b", r"boot\u200b"),
        ("a\u00a0b", r"a\xa0b"),
        ("\u2764\ufe0f", "\u2764\\ufe0f"),
        ("caf\udce9", r"caf\udce9"),
        ("a\x1b[31m\n", r"a\x1b[31m\n"),
    ],
    ids=ascii,
)
def test_a_message_shows_what_cannot_be_seen(text, expected):
    assert shown(text) == expected


def test_a_decomposed_text_is_told_apart_from_one_beside_it_that_looks_the_same():
    assert shown("Mo\u0308hre", beside=["Ru\u0308be", MOEHRE]) == r"Mo\u0308hre"
    assert shown(MOEHRE, beside=["Mo\u0308hre"]) == MOEHRE
    assert shown("Mo\u0308hre", beside=["Mo\u0308hre", "Moehre"]) == "Mo\u0308hre"


_TWINS = st.text(st.sampled_from("o\u0308\u0323\u00f6\u1ecd\u200b"), max_size=6)


@given(st.text() | _TWINS, st.text() | _TWINS)
def test_texts_of_one_normal_form_that_differ_are_shown_differently(one, other):
    seen, beside = (unicodedata.normalize("NFC", shown(a, beside=[b])) for a, b in ((one, other), (other, one)))
    assert one == other or normal_form(one) != normal_form(other) or seen != beside
