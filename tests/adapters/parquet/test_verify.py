"""Verification finds every damaged, missing, overlapping and foreign file."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from edged.adapters.parquet.store import ParquetStore
from edged.domain.place import Place
from edged.domain.samples.pack import Pack
from edged.errors import StorageError
from tests.support.archive_samples import file_name, new_archive, pack, read_packs
from tests.support.properties import examples

ONCE = examples(30, allowed=[HealthCheck.function_scoped_fixture])


@ONCE
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    store = new_archive(folder)
    store.append(
        "fashion", "pi-a", [(0, pack(0, 3)), (1, Pack("fashion", (), {"cam-01/0": Place(3)})), (2, pack(3, 3))]
    )
    path = folder / "fashion" / "pi-a" / file_name(0, 3)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    (finding,) = ParquetStore(f"file://{folder}").verify()

    assert (finding.kind, finding.path) == ("corrupt", str(path))


def test_a_file_under_another_files_name_is_corrupt(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0))])
    (folder / "fashion" / "pi-a" / file_name(0, 1)).rename(folder / "fashion" / "pi-a" / file_name(1, 2))

    assert [finding.kind for finding in store.verify()] == ["corrupt"]
    with pytest.raises(StorageError, match="another name"):
        read_packs(store, 1)


@pytest.mark.parametrize(
    "content", ['"text"', "[[]]", "[" * 100_000, '{"a": -1}', '{"a": "b"}', "null", "NaN"], ids=lambda text: text[:10]
)
@pytest.mark.parametrize("key", ["edged.offsets", "edged.gaps", "edged.blocks", "edged.cursors"])
def test_a_foreign_file_is_corrupt_with_any_footer(store, folder, key, content):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    path = folder / "fashion" / "pi-a" / file_name(0, 2)
    footer = pq.read_metadata(path).metadata
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in (0, 4):
            writer.write_table(table.slice(start, 4))
        writer.add_key_value_metadata({**footer, key.encode(): content.encode()})

    again = ParquetStore(f"file://{folder}")

    assert again.snapshot("fashion").num_blocks == 0
    assert (again.end("fashion", "pi-a").next_offset, again.end("fashion", "pi-a").cursors_end) == (2, 0)
    assert [finding.kind for finding in again.verify()] == ["corrupt"]


def test_temporary_and_foreign_files_do_not_count(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0))])
    source = folder / "fashion" / "pi-a"
    (source / file_name(1, 9)).mkdir()
    (source / f".{file_name(1, 2)}.tmp").write_bytes(b"half a file")
    (source / "notes.txt").write_text("mine")
    (source / file_name(7, 7)).write_bytes(b"")
    (folder / "fashion" / "lost+found").mkdir()
    (folder / "README").write_text("mine")

    assert store.ends("fashion") == {"pi-a": 1}
    assert store.snapshot("fashion").num_blocks == 1
    assert [(finding.kind, Path(finding.path).name) for finding in store.verify()] == [
        ("foreign", file_name(1, 9)),
        ("foreign", "notes.txt"),
        ("overlap", file_name(7, 7)),
    ]

    store.remove_leftovers("fashion", "pi-a")
    assert sorted(path.name for path in source.iterdir()) == [
        file_name(0, 1),
        file_name(1, 9),
        file_name(7, 7),
        "notes.txt",
    ]


def test_overlapping_files_give_each_block_once_and_are_found(store, folder):
    """Two writers at once: ranges overlap, their blocks are the same."""
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    other = new_archive(folder.with_name("archive-2"))
    other.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4)), (2, pack(8))])
    (folder.with_name("archive-2") / "fashion" / "pi-a" / file_name(0, 3)).rename(
        folder / "fashion" / "pi-a" / file_name(0, 3)
    )

    assert store.snapshot("fashion").offset.tolist() == [0, 1, 2]
    assert read_packs(store, 0, 1, 2) == [pack(0), pack(4), pack(8)]
    assert [finding.kind for finding in store.verify()] == ["overlap"]


def test_a_lost_file_is_found_and_the_rest_stays_readable(store, folder):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])
    (folder / "fashion" / "pi-a" / file_name(1, 2)).unlink()

    assert [(finding.kind, finding.detail) for finding in store.verify()] == [("hole", "offsets 1 to 1 are in no file")]
    assert ParquetStore(f"file://{folder}").snapshot("fashion").offset.tolist() == [0, 2]


def test_known_gaps_are_counted_and_are_not_a_finding(store):
    store.append("fashion", "pi-a", [(5, pack(0)), (9, pack(4))], [(0, 5), (6, 9)])

    (summary,) = store.summaries()

    assert (summary.first, summary.next, summary.lost, summary.blocks, summary.samples) == (0, 10, 8, 2, 8)
    assert list(store.verify()) == []
