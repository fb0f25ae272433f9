"""Text that is not YAML: the mistake is explained in plain words, at its line."""

import pytest

from edged.errors import ConfigError
from edged.topology_file import document
from tests.cli.conftest import VALID

COLUMN = "lines of one section begin in the same column"
COLON = "write key: value, with a colon and a space"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  stream: digits\n  model", "    stream: digits\n  model", f"16:5: indented by 4, line 17 by 2 ({COLUMN})"),
        ("\n  model", "\n    model", f"17:5: indented further than line 16, which has its value already ({COLUMN})"),
        ("\n  - {name: pi-b", "\n   - {name: pi-b", f"12:4: indented by 3, line 11 by 2 ({COLUMN})"),
        ("\n  - {name: pi-b", "\n - {name: pi-b", f"12:2: indented by 1, line 11 by 2 ({COLUMN})"),
        ("  bootstrap", "\tbootstrap", "4:1: a tab (indent with spaces, not tabs)"),
        ("site: lab", "site:lab", f"2:1: no space after the colon ({COLON})"),
        ("  stream: digits", "  stream:digits", f"16:3: no space after the colon ({COLON})"),
        ("site: lab", "site lab", f"2:1: a key without its colon ({COLON})"),
        ("training:", "training", f"15:1: a key without its colon ({COLON})"),
        ("site: lab", "site: lab: 2", '2:10: a second colon in one line (put a text with ": " in it in quotes)'),
        ("site: lab", 'site: "lab', '2:7: this " has no closing "'),
        ("site: lab", "site: 'lab", "2:7: this ' has no closing '"),
        ("[localhost:9092]", "[localhost:9092", "4:14: this [ has no closing ]"),
        ("stream: digits}\n  - {name: cam-02", "stream: digits\n  - {name: cam-02", "8:5: this { has no closing }"),
        ("[0, 1, 2]", "[0, 1, 2]]", "6:71: this ] closes another sign than the { before"),
        ("[localhost:9092]", "[localhost:9092]]", "4:30: this ] closes nothing"),
        ("[0, 1, 2]", '["0" "1"]', "6:67: a comma is missing here, or the end of the [ before"),
        ("site: lab", 'site: "lab" x', "2:13: something follows a value in quotes"),
        ("site: lab", "- site: lab", "2:1: a list's entry (-) among keys"),
        ("site: lab", "site: @lab", "2:7: no value outside quotes begins with this sign (put it in quotes)"),
    ],
)
def test_a_common_mistake_is_explained_in_plain_words_at_its_place(old, new, expected):
    assert old in VALID
    with pytest.raises(ConfigError) as caught:
        document.parse(VALID.replace(old, new).encode(), "topology.yaml")

    assert str(caught.value) == f"topology.yaml:{expected}"
