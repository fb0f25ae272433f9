"""Footers are read once and few are kept; a corrupt one leaves out its file alone."""

from edged.adapters.parquet import footers
from tests.support.archive_samples import file_name, open_archive, pack, segment


def test_footers_are_read_once_for_all_snapshots(store, folder, monkeypatch):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])
    again = open_archive(folder)
    again.snapshot("fashion")
    opened: list[object] = []
    monkeypatch.setattr(footers.Footers, "open", lambda _self, file: opened.append(file))

    assert again.snapshot("fashion").num_blocks == store.snapshot("fashion").num_blocks == 3
    assert opened == []


def test_the_number_of_footers_in_memory_is_bounded(store):
    for offset in range(20):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])

    store.snapshot("fashion")

    assert len(store._footers) == footers.MAX_FOOTERS


def test_a_snapshot_leaves_out_a_corrupt_file_and_keeps_the_others(store, folder):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])
    (segment(folder) / file_name(1)).write_bytes(b"no parquet at all")

    again = open_archive(folder)

    assert again.snapshot("fashion").offset.tolist() == [0, 2]
    assert again.ends("fashion") == {"pi-a": 3}
    assert [finding.kind for finding in again.verify()] == ["corrupt"]
