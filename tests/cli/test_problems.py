"""Colour only where it is wanted."""

import io

import pytest

from edged.cli.problems import complain, show, use_colour
from edged.errors import Problem


class Terminal(io.StringIO):
    def isatty(self):
        return True


PROBLEM = Problem("site", "is missing", place="t.yaml:1:1", source="schema: 1")


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),  # empty counts as not set: https://no-color.org
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_whose_users_did_not_say_no(stream, environment, coloured, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    show([PROBLEM], stream)

    assert use_colour(stream) == coloured
    assert ("\033[1mt.yaml:1:1: \033[0m" in stream.getvalue()) == coloured
    assert "site: is missing\n    1 | schema: 1\n      | ^\n" in stream.getvalue()


def test_a_complaint_keeps_its_lines_and_shows_what_a_terminal_would_obey(capsys):
    complain("edged archive", "e\x1b[31mvil: no images\n  left out: Mo\u0308hre\u200b")
    assert capsys.readouterr().err == "edged archive: e\\x1b[31mvil: no images\n  left out: Mo\u0308hre\\u200b\n"
