"""What a border refuses of a pack, by name, and that the rest of the pack is kept."""

from dataclasses import replace

import numpy as np
import pytest

from edged.domain.place import Place
from edged.domain.samples import border
from edged.domain.samples.border import (
    BORDER_REASONS,
    MAX_CURSORS,
    MAX_OFFSET,
    MAX_TIME_MS,
    REASONS_OF_TOPOLOGY,
    Border,
)
from edged.domain.samples.pack import Pack
from edged.domain.samples.rules import MAGIC
from edged.domain.samples.sample import MAX_BYTES, REASONS, Sample
from edged.domain.topology import Stream
from edged.errors import RejectedRecord

FLOATS = Stream("floats", (2,), "float32", ("low", "high"))
BORDER = Border({"floats": FLOATS}, {"meter": "pi-a", "other": "pi-b"})
GOOD = Sample("meter", 0, 7, 1000, "low", "raw", np.array([1, 2], "<f4").tobytes())


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payload": floats(1, np.nan)}, "not_finite"),
        ({"payload": floats(1, -np.inf)}, "not_finite"),
        ({"payload": floats(1, 2e18)}, "not_finite"),
        ({"payload": floats(1e-45, 0)}, "denormal"),
        ({"payload": floats(1e-45, -1e-38)}, "denormal"),
        ({"payload": floats(1)}, "wrong_length"),
        ({"payload": b""}, "empty"),
        ({"payload": floats(1, 2), "codec": "jpeg"}, "not_an_image"),
        ({"payload": MAGIC["png"].ljust(MAX_BYTES + 1), "codec": "png"}, "too_large"),
        ({"codec": "gif"}, "unknown_codec"),
        ({"label": "x" * 257}, "bad_label"),
        ({"label": "\ud800"}, "bad_label"),
        ({"device": "other"}, "foreign_device"),
        ({"device": "no/name"}, "bad_device"),
        ({"device": "x" * 65}, "bad_device"),
        ({"device": "newline\n"}, "bad_device"),
        ({"offset": MAX_OFFSET + 1}, "out_of_range"),
        ({"offset": -1}, "out_of_range"),
        ({"partition": 1 << 31}, "out_of_range"),
        ({"arrived_ms": MAX_TIME_MS + 1}, "out_of_range"),
        ({"arrived_ms": -2}, "out_of_range"),
        ({"sampled_ms": -2}, "out_of_range"),
        ({"sampled_ms": MAX_TIME_MS + 1}, "out_of_range"),
    ],
)
def test_a_sample_that_breaks_the_rule_is_left_out_by_name_and_the_others_stay(change, reason):
    bad = replace(GOOD, **({"offset": 8} | change))
    last = replace(GOOD, offset=9, label=None)

    sifted = BORDER.sift(Pack("floats", (GOOD, bad, last), {"meter/0": Place(10)}), "pi-a", {})

    assert sifted.pack == Pack("floats", (GOOD, last), {"meter/0": Place(10)})
    (refused,) = sifted.refused
    assert (refused.row, refused.offset, refused.reason) == (1, bad.offset, reason)
    assert refused.is_wanted == (reason in REASONS_OF_TOPOLOGY)
    assert sifted.wanted == (refused if refused.is_wanted else None)
    assert reason in {*REASONS, *BORDER_REASONS}
    assert refused.detail or reason in {"not_finite", "empty"}


def test_what_no_topology_would_accept_is_not_waited_for_and_neither_is_what_is_archived():
    both = replace(GOOD, offset=MAX_OFFSET + 1, device="other", payload=b"short")
    assert BORDER.sift(Pack("floats", (both,)), "pi-a", {}).wanted is None
    foreign = replace(GOOD, device="other")
    assert BORDER.sift(Pack("floats", (foreign,)), "pi-a", {"other/0": 7}).wanted is not None
    assert BORDER.sift(Pack("floats", (foreign,)), "pi-a", {"other/0": 8}).wanted is None


@pytest.mark.parametrize(
    "edge",
    [
        {"offset": MAX_OFFSET},
        {"offset": 0},
        {"partition": (1 << 31) - 1},
        {"arrived_ms": -1},
        {"arrived_ms": MAX_TIME_MS},
        {"payload": floats(1e18, -1e18)},
        {"payload": floats(1e-45, 1.2e-38)},
        {"payload": floats(0, 0)},
        {"payload": MAGIC["png"].ljust(MAX_BYTES), "codec": "png"},
        {"device": "taken-out-of-the-file"},
        {"label": "not-in-the-file-yet"},
    ],
)
def test_what_lies_on_the_limit_passes_unchanged(edge):
    pack = Pack("floats", (replace(GOOD, **edge),), {"meter/0": Place((1 << 63) - 1)})
    assert BORDER.sift(pack, "pi-a", {}) == (pack, ())


def test_a_pack_keeps_as_many_samples_as_a_pack_may_hold():
    large = [replace(GOOD, offset=i, codec="png", payload=MAGIC["png"].ljust(MAX_BYTES // 2)) for i in range(4)]

    sifted = BORDER.sift(Pack("floats", (*large, replace(GOOD, offset=4))), "pi-a", {})

    assert [each.offset for each in sifted.pack.samples] == [0, 1]
    assert [each.reason for each in sifted.refused] == ["too_large"] * 3


def test_a_source_holds_a_bounded_number_of_devices_that_no_topology_knows():
    many = {f"ghost-{i}/0": 1 for i in range(MAX_CURSORS)}
    samples = (replace(GOOD, device="ghost-0"), replace(GOOD, device="one-more"), GOOD)

    sifted = BORDER.sift(Pack("floats", samples, {"one-more/0": Place(1), "ghost-0/0": Place(9)}), "pi-a", many)

    assert [each.device for each in sifted.pack.samples] == ["ghost-0", "meter"]
    assert [each.reason for each in sifted.refused] == ["too_many_devices"]
    assert sifted.pack.cursors == {"ghost-0/0": Place(9)}
    more = {f"spirit-{i}/0": Place(1) for i in range(2 * MAX_CURSORS)}
    assert len(BORDER.sift(Pack("floats", (), more), "pi-a", {}).pack.cursors) == MAX_CURSORS


def test_a_label_that_the_stream_has_no_longer_is_no_fault_of_the_content():
    border.check_sample(replace(GOOD, label="medium"), FLOATS)
    with pytest.raises(RejectedRecord):
        border.check_sample(replace(GOOD, label="x" * 300), FLOATS)
