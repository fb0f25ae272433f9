"""What a fetch accepts of the archive's replies, and when it is complete."""

import numpy as np
import pytest

from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.epochs.window import SAMPLE_OVERHEAD, Window
from edged.errors import FormatError
from edged.services.archive.fetch import SnapshotFetch, WindowFetch


def snapshot(source, *offsets):
    """Blocks of two samples each."""
    n = len(offsets)
    columns = np.zeros(n, np.int64), np.array(offsets), np.full(n, 2), np.full(n, 20)
    return Snapshot((source,), *columns, ends={source: offsets[-1] + 1})


SNAPSHOT = snapshot("pi-a", 3, 4)


def window_fetch():
    rows = np.arange(2, dtype=np.uint16)
    return WindowFetch(Window((BlockRef("pi-a", 3), BlockRef("pi-a", 4)), (rows, rows), np.arange(4), np.arange(4), 4))


def part(position, missing=()):
    """A part whose payload at each position is that position, in one byte."""
    n = len(position)
    return SamplesPart(
        "r", 0, True, np.array(position, np.int64), ("cat",) * n, ("raw",) * n,
        tuple(bytes([each]) for each in position), np.array(missing, np.int64),
    )  # fmt: skip


def test_a_window_is_complete_once_every_sample_is_received_or_missing():
    fetch = window_fetch()
    fetch.accept(part([2, 0], missing=[3]), np.arange(4))
    assert (fetch.num_open, fetch.num_missing, fetch.open_positions().tolist()) == (1, 1, [1])
    fetch.accept(part([1]), np.arange(4))
    assert fetch.is_complete
    assert fetch.payloads == [b"\0", b"\1", b"\2", None]
    assert fetch.num_bytes == 3 * (1 + SAMPLE_OVERHEAD)


def test_positions_are_those_of_the_request_not_of_the_window():
    fetch = window_fetch()
    fetch.accept(part([1]), np.array([0, 3]))
    assert fetch.payloads == [None, None, None, b"\1"]


def test_a_sample_received_twice_counts_once():
    fetch = window_fetch()
    for _ in range(2):
        fetch.accept(part([0], missing=[1, 1]), np.arange(4))
    assert (fetch.num_open, fetch.num_missing) == (2, 1)
    fetch.accept(part([], missing=[0]), np.arange(4))
    assert fetch.num_missing == 1


@pytest.mark.parametrize("position", [-1, 2])
def test_positions_that_were_not_requested_are_refused(position):
    with pytest.raises(FormatError, match="not asked for"):
        window_fetch().accept(part([], missing=[position]), np.array([0, 3]))


def test_a_snapshot_is_complete_once_all_its_parts_are_received_in_any_order(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_BLOCKS_PER_PART", 1)
    first, last = protocol.snapshot_parts("r", SNAPSHOT)
    fetch = SnapshotFetch(None)
    fetch.accept(last)
    assert not fetch.is_complete
    fetch.accept(first)
    assert fetch.snapshot().offset.tolist() == [3, 4]


def test_parts_of_different_snapshots_are_refused_and_the_fetch_starts_over(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_BLOCKS_PER_PART", 1)
    first, last = protocol.snapshot_parts("r", SNAPSHOT)
    other, _ = protocol.snapshot_parts("r", snapshot("pi-b", 3, 4))
    fetch = SnapshotFetch(None)
    fetch.accept(other)
    with pytest.raises(FormatError, match="different snapshots"):
        fetch.accept(last)
    for each in (first, last):
        fetch.accept(each)
    assert fetch.is_complete
