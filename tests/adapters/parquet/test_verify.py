"""Verification finds every damaged, missing, overlapping and foreign file."""

import os
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from edged.adapters.local import local_store
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.segment_index import MAX_TAIL
from edged.domain.place import Place
from edged.domain.samples.pack import Pack
from edged.errors import StorageError
from tests.support.archive_samples import file_name, new_archive, open_archive, pack, read_packs, segment
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
    path = segment(folder) / file_name(0)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    (finding,) = open_archive(folder).verify()

    assert (finding.kind, finding.path) == ("corrupt", str(path))


class TestSince:
    """Files that an index has named for long are not read, but their places and sizes are looked at."""

    @pytest.fixture
    def old(self, folder):
        """As many files as an index takes, of eight days ago, and two that no index names."""
        store = new_archive(folder)
        for offset in range(MAX_TAIL + 2):
            store.append("fashion", "pi-a", [(offset, pack(offset))])
        return ParquetStore(local_store(folder.as_uri(), "tests"), clock=lambda: time.time() + 8 * 86_400)

    def read(self, store, **options):
        files: list[bool] = []
        findings = [(each.kind, Path(each.path).name) for each in store.verify(on_file=files.append, **options)]
        return findings, Counter(files)

    def test_only_newer_files_are_read(self, old, folder):
        path = segment(folder) / file_name(0)
        content = bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(content)

        assert self.read(old, since_s=7 * 86_400.0) == ([], {False: MAX_TAIL, True: 2})
        assert self.read(old) == ([("corrupt", file_name(0))], {True: MAX_TAIL + 2})

    def test_an_older_one_that_is_gone_or_cut_off_is_found(self, old, folder):
        (segment(folder) / file_name(1)).unlink()
        os.truncate(segment(folder) / file_name(2), 100)

        findings, _ = self.read(old, since_s=7 * 86_400.0)

        assert sorted(findings) == [("corrupt", file_name(2)), ("hole", file_name(1))]


def test_a_folder_that_is_no_sources_is_foreign(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0))])
    (folder / "fashion" / "pi a").mkdir()

    assert [each.kind for each in open_archive(folder).verify()] == ["foreign"]


def test_a_file_under_another_files_name_is_corrupt(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0))])
    (segment(folder) / file_name(0)).rename(segment(folder) / file_name(1))

    assert [finding.kind for finding in open_archive(folder).verify()] == ["hole", "corrupt"]
    with pytest.raises(StorageError, match="another name"):
        read_packs(open_archive(folder), 1)


@pytest.mark.parametrize(
    "content", ['"text"', "[[]]", "[" * 100_000, '{"a": -1}', '{"a": "b"}', "null", "NaN"], ids=lambda text: text[:10]
)
@pytest.mark.parametrize("key", ["edged.offsets", "edged.gaps", "edged.blocks", "edged.cursors"])
def test_a_foreign_file_is_corrupt_with_any_footer(store, folder, key, content):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    path = segment(folder) / file_name(0)
    footer = pq.read_metadata(path).metadata
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in (0, 4):
            writer.write_table(table.slice(start, 4))
        writer.add_key_value_metadata({**footer, key.encode(): content.encode()})

    again = open_archive(folder)

    assert again.snapshot("fashion").num_blocks == 0
    assert (again.end("fashion", "pi-a").next_offset, again.end("fashion", "pi-a").cursors_end) == (1, 0)
    assert [finding.kind for finding in again.verify()] == ["corrupt"]


def test_temporary_and_foreign_files_do_not_count(store, folder):
    for offset in range(2):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset))])
    source = folder / "fashion" / "pi-a"
    files = segment(folder)
    (files / file_name(2)).mkdir()
    (files / f".{file_name(2)}.tmp-tests-00000000-0").write_bytes(b"half a file")
    (files / "notes.txt").write_text("mine")
    (files / f"{0:020d}-{2:020d}.g1.parquet").write_bytes(b"of a compaction that was interrupted")
    (source / "more.txt").write_text("mine")
    (source / "lost+found").mkdir()
    (folder / "fashion" / "lost+found").mkdir()
    (folder / "README").write_text("mine")

    assert store.ends("fashion") == {"pi-a": 2}
    assert store.snapshot("fashion").num_blocks == 2
    assert sorted((finding.kind, Path(finding.path).name) for finding in store.verify()) == [
        ("foreign", file_name(2)),
        *2 * [("foreign", "lost+found")],
        ("foreign", "more.txt"),
        ("foreign", "notes.txt"),
        ("ignored", f"{0:020d}-{2:020d}.g1.parquet"),
    ]

    store.remove_leftovers("fashion", "pi-a")
    assert not [path.name for path in files.iterdir() if "tmp" in path.name]


def test_a_file_whose_offsets_are_in_another_counts_for_nothing_and_is_found(store, folder):
    """As a writer leaves it that was paused while another archived the same blocks, and then died."""
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4)), (2, pack(8))])
    other = new_archive(folder.with_name("archive-2"))
    other.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])
    (segment(folder.with_name("archive-2")) / file_name(1)).rename(segment(folder) / file_name(1))

    again = open_archive(folder)

    assert again.snapshot("fashion").offset.tolist() == [0, 1, 2]
    assert read_packs(again, 0, 1, 2) == [pack(0), pack(4), pack(8)]
    assert [(each.kind, Path(each.path).name) for each in again.verify()] == [("ignored", file_name(1))]
    again.append("fashion", "pi-a", [(3, pack(12))])
    assert again.ends("fashion") == {"pi-a": 4}


def test_a_lost_file_is_found_and_the_rest_stays_readable(store, folder):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])
    (segment(folder) / file_name(1)).unlink()

    hole = [("hole", "offsets 1 to 1 are in no file")]
    assert [(finding.kind, finding.detail) for finding in open_archive(folder).verify()] == hole
    assert open_archive(folder).snapshot("fashion").offset.tolist() == [0, 2]


def test_known_gaps_are_counted_and_are_not_a_finding(store):
    store.append("fashion", "pi-a", [(5, pack(0)), (9, pack(4))], [(0, 5), (6, 9)])

    (summary,) = store.summaries()

    assert (summary.first, summary.next, summary.lost, summary.blocks, summary.samples) == (0, 10, 8, 2, 8)
    assert list(store.verify()) == []
