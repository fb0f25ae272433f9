"""The archive's files are plain Parquet: DuckDB reads them, and what it wrote again is still the archive's."""

import importlib
from typing import Any

import pyarrow.parquet as pq
import pytest

from edged.adapters.local import local_store
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.segment_index import MAX_TAIL
from edged.domain.samples.pack import Pack
from tests.support.archive_samples import file_name, open_archive, pack, read_packs, sample, segment
from tests.support.requirements import require


@pytest.fixture(scope="module")
def duckdb() -> Any:
    try:
        return importlib.import_module("duckdb")
    except ImportError as error:
        require(f"DuckDB: {error}")


def test_all_files_of_a_stream_are_one_table(duckdb, store, folder):
    store.append("fashion", "pi-a", [(0, pack(0, 4)), (1, Pack("fashion", ()))])
    store.append("fashion", "pi-a", [(2, Pack("fashion", (sample(4, None), sample(5, "bag"))))])
    store.append("fashion", "_test.birds", [(0, pack(6, 3))])
    files = f"read_parquet('{folder}/fashion/*/0*/*.parquet', filename = true)"

    labels = duckdb.sql(f"SELECT label, count(*) FROM {files} GROUP BY ALL ORDER BY ALL NULLS LAST").fetchall()  # noqa: S608 - the test's own path
    places = duckdb.sql(f'SELECT count(*), count(DISTINCT (filename, "offset", row)) FROM {files}').fetchall()  # noqa: S608
    [[payload]] = duckdb.sql(f"SELECT payload FROM {files} WHERE device_offset = 5").fetchall()  # noqa: S608

    assert labels == [("bag", 1), ("boot", 7), (None, 1)]
    assert places == [(9, 9)]
    assert payload == sample(5).payload


@pytest.mark.parametrize("order", ["offset, row", "label, row DESC"])
def test_a_file_that_duckdb_wrote_again_is_read_by_its_columns(duckdb, store, folder, order):
    packs = [pack(0, 4), Pack("fashion", (sample(4, None), sample(5, "bag"))), pack(6, 3)]
    store.append("fashion", "pi-a", list(enumerate(packs)))
    path = segment(folder) / file_name(0)
    metadata = pq.read_metadata(path).metadata
    kept = ", ".join(f"'{key.decode()}': '{value.decode()}'" for key, value in metadata.items())
    columns = order.replace("offset", '"offset"')

    written = folder / "again"
    duckdb.sql(f"COPY (FROM '{path}' ORDER BY {columns}) TO '{written}' (FORMAT parquet, KV_METADATA {{{kept}}})")
    written.rename(path)

    assert pq.read_metadata(path).num_row_groups == 1
    assert read_packs(open_archive(folder), 2, 0, 1) == [packs[2], packs[0], packs[1]]


def test_the_published_list_names_each_sample_once_at_every_step_of_a_compaction(duckdb, store, folder):
    """A list of now, and one from before the compaction, whose files stay for the grace."""
    number = 3 * MAX_TAIL
    for offset in range(number):
        store.append("fashion", "pi-a", [(offset, pack(2 * offset, 2))])
    expected = [(offset, row) for offset in range(number) for row in range(2)]
    lists = [list(open_archive(folder).files("fashion"))]
    looks = []

    def look(after):
        lists[1:] = [list(open_archive(folder).files("fashion"))]
        for files in lists:
            named = [str(folder / name) for name in files]
            rows = duckdb.sql(f'SELECT "offset", row FROM read_parquet({named}) ORDER BY ALL').fetchall()  # noqa: S608
            assert rows == expected
        looks.append(after)

    objects = Watched(local_store(folder.as_uri(), "packing"), look)
    steps = list(ParquetStore(objects).compact("fashion", packed_bytes=20_000))

    assert sum(step.files for step in steps) > MAX_TAIL
    assert looks.count("publish") > 2
    assert looks.count("replace") == len(steps)
    assert len(lists[1]) < len(lists[0])


class Watched:
    """An object store, and `look`, which is called after each change with its name."""

    def __init__(self, objects, look):
        self._objects = objects
        self._look = look

    def __getattr__(self, name):
        method = getattr(self._objects, name)
        if name not in {"publish", "replace", "delete"}:
            return method

        def watched(*args):
            answer = method(*args)
            self._look(name)
            return answer

        return watched
