"""Changes of the quarantine: two at the same moment do not undo each other, and large ones stay whole."""

import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.domain.archive import quarantine as records
from edged.domain.archive.quarantine import Action
from edged.domain.archive.snapshot import QUARANTINE_SOURCE
from edged.domain.samples.address import ArchivedAddress, SampleAddress
from edged.errors import ArchiveConflict, FormatError
from edged.services.archive import quarantine
from tests.support.archive_samples import pack


def change(store: MemoryArchive, *addresses: SampleAddress, action: Action = "quarantine") -> int:
    return sum(each.num_samples for each in quarantine.apply(store, action, addresses, by="me", when_ms=0))


@pytest.fixture
def store() -> MemoryArchive:
    store = MemoryArchive()
    store.append("fashion", "pi-a", [(0, pack(0, 200)), (1, pack(200, 200))])
    return store


def out(store: MemoryArchive) -> int:
    snapshot = store.snapshot("fashion")
    return int((snapshot.rows - snapshot.usable_rows).sum())


@pytest.mark.parametrize("moment", ["before the append", "in the same moment"])
def test_who_comes_second_is_told_and_undoes_nothing(store, monkeypatch, moment):
    other, append = ArchivedAddress("fashion", "pi-a", 1, 7), store.append

    def meanwhile(*args):
        monkeypatch.setattr(store, "append", append)
        if moment == "in the same moment":
            append(*args)  # and the other one replaces it
            replaced = records.to_pack("fashion", store.quarantine_records("fashion")[:1])
            append("fashion", QUARANTINE_SOURCE, [(0, replaced)])
        else:
            append(*args)

    if moment == "before the append":
        read = store.remove_leftovers

        def first(*args):
            monkeypatch.setattr(store, "remove_leftovers", read)
            change(store, other)

        monkeypatch.setattr(store, "remove_leftovers", first)
    else:
        monkeypatch.setattr(store, "append", meanwhile)

    with pytest.raises(ArchiveConflict, match="run it again"):
        change(store, *(ArchivedAddress("fashion", "pi-a", 0, row) for row in range(3)))
    assert out(store) == 1
    assert change(store, *(ArchivedAddress("fashion", "pi-a", 0, row) for row in range(3))) >= 2


def test_more_addresses_than_a_block_holds_are_changed_together(store):
    rows = [ArchivedAddress("fashion", "pi-a", block, row) for block in (0, 1) for row in range(200)]

    assert change(store, *rows) == out(store) == 400
    assert len(store.blocks("fashion", QUARANTINE_SOURCE)) == 2
    assert change(store, *rows, action="release") == 400
    assert out(store) == 0


def test_of_several_streams_none_is_changed_when_an_address_names_nothing(store):
    store.append("birds", "pi-a", [(0, pack(0, 4, stream="birds"))])
    with pytest.raises(FormatError, match="does not hold fashion/pi-a/9"):
        change(store, ArchivedAddress("birds", "pi-a", 0), ArchivedAddress("fashion", "pi-a", 9))
    assert store.ends("birds") == {"pi-a": 1}
