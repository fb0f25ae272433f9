"""The contract of `ports.ObjectStore`: on the fake, on local files, on real HDFS, and on two real S3 servers."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

from edged.adapters.local import local_store
from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.objects.store import Store
from edged.domain.topology import HdfsAccess, S3Access
from edged.errors import ArchiveFull, ArchiveUnavailable
from edged.ports.objects import Manifest
from tests.support.object_stores import until_it_works
from tests.support.proxy import Proxy

NAME = "fashion/pi-a/00000000/00000000000000000007.parquet"
FOLDER = NAME.rpartition("/")[0]
KINDS = ("memory", "local", "moto", "versitygw", "hdfs")
_PROXY = "a proxy to "
SERVERS = ("memory", *(f"{_PROXY}{kind}" for kind in ("moto", "versitygw", "hdfs")))
"""Those that may be away, or hang, beside whoever asks them."""

WRITERS = 8
PATIENT_S = 600.0
"""Deadline of calls that nothing keeps from ending: the machine may have other things to do."""


class Bed(Protocol):
    """A place for objects, and what may happen to it."""

    def store(self, writer: str = "arc-1", deadline_s: float = PATIENT_S) -> Store: ...
    def elsewhere(self) -> Store: ...
    def put_foreign(self, name: str, content: bytes) -> None: ...
    def go_away(self) -> None: ...
    def hang(self) -> None: ...
    def lose_answers(self) -> None: ...
    def come_back(self) -> None: ...


class MemoryBed:
    def __init__(self) -> None:
        self.place = MemoryPlace()

    def store(self, writer: str = "arc-1", deadline_s: float = PATIENT_S) -> Store:
        return self.place.store(writer, deadline_s)

    def elsewhere(self) -> Store:
        self.place.is_there = False
        return self.place.store()

    def put_foreign(self, name: str, content: bytes) -> None:
        self.place.objects[name] = content

    def go_away(self) -> None:
        self.place.outage = "the connection broke"

    def hang(self) -> None:
        self.place.goes.clear()

    def lose_answers(self) -> None:
        self.place.loses_answers = True

    def come_back(self) -> None:
        self.place.outage, self.place.loses_answers = "", False
        self.place.goes.set()


class LocalBed:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def store(self, writer: str = "arc-1", deadline_s: float = PATIENT_S) -> Store:
        return local_store(f"file://{self._folder}", writer, deadline_s)

    def elsewhere(self) -> Store:
        return local_store(f"file://{self._folder}-2", "arc-1", PATIENT_S)

    def put_foreign(self, name: str, content: bytes) -> None:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_bytes(content)


class _Remote:
    """Behind a proxy of its own, or not."""

    def __init__(self, port: int, proxy: Proxy | None) -> None:
        self._proxy = proxy
        self._address = f"127.0.0.1:{port if proxy is None else proxy.port}"

    def go_away(self) -> None:
        assert self._proxy is not None
        self._proxy.refuse = True
        self._proxy.cut()

    def hang(self) -> None:
        assert self._proxy is not None
        self._proxy.blackhole = True

    def lose_answers(self) -> None:
        assert self._proxy is not None
        self._proxy.drop_answers = True

    def come_back(self) -> None:
        assert self._proxy is not None
        self._proxy.refuse = self._proxy.blackhole = self._proxy.drop_answers = False
        self._proxy.cut()


class S3Bed(_Remote):
    def __init__(self, port: int, proxy: Proxy | None) -> None:
        from tests.support.s3 import ACCESS_KEY, BUCKET, REGION, SECRET_KEY  # noqa: PLC0415 - its client is not everywhere

        super().__init__(port, proxy)
        self._prefix = uuid.uuid4().hex
        self._url = f"s3://{BUCKET}/{self._prefix}"
        self._access = S3Access(f"http://{self._address}", REGION, ACCESS_KEY, SECRET_KEY)

    def store(self, writer: str = "arc-1", deadline_s: float = PATIENT_S) -> Store:
        from edged.adapters.s3 import s3_store  # noqa: PLC0415 - see above

        return s3_store(self._url, self._access, writer, deadline_s)

    def elsewhere(self) -> Store:
        from edged.adapters.s3 import s3_store  # noqa: PLC0415 - see above

        return s3_store("s3://no-such-bucket/edged", self._access, "arc-1", PATIENT_S)

    def put_foreign(self, name: str, content: bytes) -> None:
        import obstore  # noqa: PLC0415 - see above
        from obstore.store import S3Store  # noqa: PLC0415 - see above

        access = self._access
        client = S3Store(
            self._url.split("/")[2],
            prefix=self._prefix,
            endpoint=access.endpoint,
            region=access.region,
            access_key_id=access.access_key,
            secret_access_key=access.secret_key,
            client_options={"allow_http": True},
        )
        obstore.put(client, name, content)


class HdfsBed(_Remote):
    def __init__(self, port: int, proxy: Proxy | None) -> None:
        super().__init__(port, proxy)
        self._root = f"/{uuid.uuid4().hex}"
        self.store().create()

    def store(self, writer: str = "arc-1", deadline_s: float = PATIENT_S) -> Store:
        from edged.adapters.hdfs import hdfs_store  # noqa: PLC0415 - its client is not everywhere

        return hdfs_store(f"hdfs://{self._address}{self._root}", HdfsAccess(), writer, deadline_s)

    def elsewhere(self) -> Store:
        from edged.adapters.hdfs import hdfs_store  # noqa: PLC0415 - see above

        return hdfs_store(f"hdfs://{self._address}/nowhere", HdfsAccess(), "arc-1", PATIENT_S)

    def put_foreign(self, name: str, content: bytes) -> None:
        from hdfs_native import Client, WriteOptions  # noqa: PLC0415 - see above

        writer = Client(f"hdfs://{self._address}").create(f"{self._root}/{name}", WriteOptions(create_parent=True))
        writer.write(content)
        writer.close()


@pytest.fixture
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    if request.param == "memory":
        yield MemoryBed()
    elif request.param == "local":
        yield LocalBed(tmp_path / "archive")  # type: ignore[misc]  # it is never asked to go away
    else:
        kind = request.param.removeprefix(_PROXY)
        port = request.getfixturevalue(kind).port
        make = HdfsBed if kind == "hdfs" else S3Bed
        if kind == request.param:
            yield make(port, None)
        else:
            with Proxy(port) as proxy:
                yield make(port, proxy)


@pytest.fixture
def store(bed: Bed) -> Iterator[Store]:
    store = bed.store()
    yield store
    store.close()


on_all = pytest.mark.parametrize("bed", KINDS, indirect=True)
on_servers = pytest.mark.parametrize("bed", SERVERS, indirect=True)


def at_once(function: Callable[[int], Any], number: int = WRITERS) -> list[Any]:
    """What the function returns in as many threads, which begin together."""
    barrier = threading.Barrier(number)

    def run(index: int) -> Any:
        barrier.wait()
        return function(index)

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(run, range(number)))


@on_all
def test_what_is_published_is_read_back_in_ranges(store):
    assert store.publish(NAME, [b"abcdef", memoryview(b"ghij")])

    assert store.size(NAME) == 10
    assert store.read(NAME, 0, 10) == b"abcdefghij"
    assert store.read(NAME, 4, 3) == b"efg"
    assert store.read(NAME, 4, 3) == b"efg"
    assert store.read(NAME, 8, 5) == b"ij"
    assert store.read(NAME, 10, 5) == b""
    assert store.read(NAME, 3, 0) == b""


@on_all
def test_nothing_is_an_object_too(store):
    assert store.publish(NAME, [])

    assert (store.size(NAME), store.read(NAME, 0, 5)) == (0, b"")


@on_all
def test_an_object_of_many_pieces_is_whole(store):
    pieces = [bytes([number]) * 700_001 for number in range(12)]

    assert store.publish(NAME, pieces)

    assert store.size(NAME) == 12 * 700_001
    assert store.read(NAME, 700_000, 3) == b"\0\1\1"
    assert store.read(NAME, 0, 20 << 20) == b"".join(pieces)


@on_all
def test_a_name_is_taken_by_the_first(store):
    assert store.publish(NAME, [b"the first"])

    assert not store.publish(NAME, [b"another"])
    assert not store.publish(NAME, [b"the other"])

    assert store.read(NAME, 0, 100) == b"the first"


@on_all
def test_the_same_bytes_may_be_published_again(store):
    assert store.publish(NAME, [b"the ", b"first"])
    assert store.publish(NAME, [b"th", b"e first"])


@on_all
def test_of_writers_at_the_same_time_one_has_the_name(bed):
    stores = [bed.store(f"arc-{number}") for number in range(WRITERS)]

    won = at_once(lambda number: stores[number].publish(NAME, [b"%d" % number] * 3))

    assert won.count(True) == 1
    assert stores[0].read(NAME, 0, 100) == b"%d" % won.index(True) * 3


@on_all
def test_what_is_absent_is_told_as_absent(store):
    assert store.publish(f"{FOLDER}/other", [b"x"])

    assert store.read(NAME, 0, 10) is None
    assert store.size(NAME) is None
    assert list(store.list("fashion/pi-b")) == []
    assert list(store.folders("fashion/pi-b")) == []
    store.delete(NAME)


@on_all
def test_a_folder_is_no_object(store):
    assert store.publish(NAME, [b"x"])

    assert store.size(FOLDER) is None


@on_all
def test_what_is_deleted_is_absent_and_its_name_is_free(store):
    assert store.publish(NAME, [b"x"])
    assert store.read(NAME, 0, 1) == b"x"

    store.delete(NAME)

    assert store.size(NAME) is None
    assert store.read(NAME, 0, 1) is None
    assert list(store.list(FOLDER)) == []
    assert store.publish(NAME, [b"y"])
    assert store.read(NAME, 0, 1) == b"y"


@on_all
def test_objects_are_listed_by_name_from_one_on(store):
    for name in ("b", "a", "c", "B", "a.parquet"):
        assert store.publish(f"{FOLDER}/{name}", [name.encode()])
    assert store.publish("fashion/pi-a/00000001/a", [b"x"])

    assert list(store.list(FOLDER)) == [("B", 1), ("a", 1), ("a.parquet", 9), ("b", 1), ("c", 1)]
    assert list(store.list(FOLDER, "a.parquet")) == [("b", 1), ("c", 1)]
    assert list(store.list(FOLDER, "a0")) == [("b", 1), ("c", 1)]
    assert list(store.list(FOLDER, "c")) == []
    assert list(store.list("fashion/pi-a")) == []


@on_all
def test_more_objects_than_a_page_are_listed(store):
    """The tests' HDFS has ten on a page; for S3, of a thousand, see its adapter's."""
    names = [f"{number:05d}" for number in range(25)]
    assert all(store.publish(f"{FOLDER}/{name}", [b"x"]) for name in names)

    assert [each.name for each in store.list(FOLDER)] == names
    assert [each.name for each in store.list(FOLDER, names[11])] == names[12:]


@on_all
def test_folders_are_listed_by_name(store):
    for name in ("fashion/pi-b/0/a", "fashion/pi-a/0/a", "birds/pi-a/0/a", "edged-archive.json"):
        assert store.publish(name, [b"x"])

    assert list(store.folders()) == ["birds", "fashion"]
    assert list(store.folders("fashion")) == ["pi-a", "pi-b"]
    assert list(store.folders("fashion/pi-a/0")) == []


@on_all
def test_a_foreign_file_is_listed_and_harms_nothing(bed, store):
    assert store.publish(NAME, [b"x"])
    bed.put_foreign(f"{FOLDER}/Read me (2).txt", b"hello")

    assert sorted(store.list(FOLDER)) == [(NAME.rpartition("/")[2], 1), ("Read me (2).txt", 5)]


@on_all
@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a b", "a\0", "é", "a/" + "b" * 151])
def test_what_is_no_name_reaches_no_store(store, name):
    for call in (
        store.size,
        store.delete,
        lambda name: store.publish(name, [b"x"]),
        lambda name: store.read(name, 0, 1),
    ):
        with pytest.raises(ValueError, match="not the name"):
            call(name)


@on_all
def test_while_the_place_is_not_there_nothing_is_absent(bed):
    store = bed.elsewhere()

    for call in (
        lambda: store.publish(NAME, [b"x"]),
        lambda: store.read(NAME, 0, 1),
        lambda: store.size(NAME),
        lambda: list(store.list(FOLDER)),
        lambda: store.delete(NAME),
        store.folders,
        lambda: store.manifest("fashion/index"),
        store.probe,
    ):
        with pytest.raises(ArchiveUnavailable, match=r"not there|no bucket"):
            call()


@on_all
def test_a_manifest_is_replaced_by_who_knows_its_version(store):
    assert store.manifest("fashion/index") is None
    assert store.version("fashion/index") == 0
    assert store.replace("fashion/index", b"one", 0)
    assert not store.replace("fashion/index", b"first, too", 0)
    assert store.replace("fashion/index", b"two", 1)
    assert not store.replace("fashion/index", b"second, too", 1)

    assert store.manifest("fashion/index") == Manifest(b"two", 2)
    assert store.version("fashion/index") == 2
    for version in range(2, 12):
        assert store.replace("fashion/index", b"%d" % version, version)
    assert len(list(store.list("fashion/index"))) == 8


@on_all
def test_who_was_paused_for_many_versions_replaces_nothing(store):
    for version in range(12):
        assert store.replace("fashion/index", b"%d" % version, version)

    assert not store.replace("fashion/index", b"what it was", 1)

    assert store.manifest("fashion/index") == Manifest(b"11", 12)


@on_all
def test_of_changes_at_the_same_time_none_is_lost(bed):
    stores = [bed.store(f"arc-{number}") for number in range(4)]
    assert stores[0].replace("fashion/index", b"", 0)

    def add(number: int) -> None:
        for _ in range(3):
            while True:
                manifest = stores[number].manifest("fashion/index")
                assert manifest is not None
                if stores[number].replace("fashion/index", manifest.content + b"%d" % number, manifest.version):
                    break

    at_once(add, 4)

    manifest = stores[0].manifest("fashion/index")
    assert manifest is not None
    assert sorted(manifest.content) == sorted(b"000111222333")


@on_all
def test_the_probe_finds_the_place_fit_and_leaves_nothing(store):
    assert list(store.probe()) == []
    assert list(store.probe()) == []

    assert list(store.list("_probe")) == []


@on_all
def test_after_the_end_every_call_fails_at_once(bed):
    store = bed.store()
    assert store.publish(NAME, [b"x"])

    store.close()

    with pytest.raises(ArchiveUnavailable, match="stopping"):
        store.size(NAME)


@on_servers
def test_an_outage_is_told_and_over_without_a_restart(bed, store):
    assert store.publish(NAME, [b"x"])
    bed.go_away()

    for call in (
        lambda: store.publish(NAME, [b"x"]),
        lambda: store.read(NAME, 0, 1),
        lambda: store.size(NAME),
        lambda: list(store.list(FOLDER)),
        lambda: store.delete(NAME),
    ):
        with pytest.raises(ArchiveUnavailable, match=store.where):
            call()

    bed.come_back()
    assert until_it_works(lambda: store.read(NAME, 0, 1)) == b"x"


def test_a_connection_that_breaks_in_the_middle_leaves_no_half_object():
    """As HDFS does it, of the fake; the real ones are killed in the middle by tests of their own."""
    place = MemoryPlace()
    store = place.store()
    place.breaks_after = 3
    with pytest.raises(ArchiveUnavailable, match="the connection broke"):
        store.publish(NAME, [b"whole"])
    place.breaks_after = None

    assert store.size(NAME) is None
    assert list(store.list(FOLDER)) == []
    assert store.publish(NAME, [b"whole"])


def test_a_place_that_lets_a_second_take_a_name_is_refused_by_the_probe():
    place = MemoryPlace()
    place.replaces = True

    with pytest.raises(ArchiveUnavailable, match="two archive nodes would overwrite each other"):
        place.store().probe()


def test_what_is_refused_as_taken_and_is_not_there_is_published_again():
    """An S3 answers 409 where another call for the name is under way; the client calls that taken."""
    place = MemoryPlace()
    store = place.store()
    place.conflicts = 2
    assert store.publish(NAME, [b"x"])
    place.conflicts = 1
    assert store.replace("f/index", b"first", 0)
    place.conflicts = 1000
    with pytest.raises(ArchiveUnavailable, match="refused as taken, and is not there"):
        store.publish("f/other", [b"x"])


def test_a_place_without_room_says_so():
    place = MemoryPlace()
    place.is_full = True

    with pytest.raises(ArchiveFull, match="make room"):
        place.store().publish(NAME, [b"x"])


@on_servers
def test_a_server_that_hangs_costs_one_call_and_then_none(bed):
    store = bed.store(deadline_s=1.0)
    assert until_it_works(lambda: store.publish(NAME, [b"x"]))
    bed.hang()

    with pytest.raises(ArchiveUnavailable, match="no answer for"):
        store.size(NAME)
    num_threads = threading.active_count()
    for _ in range(20):
        with pytest.raises(ArchiveUnavailable, match="has not returned"):
            store.size(NAME)
    assert threading.active_count() == num_threads

    bed.come_back()
    assert until_it_works(lambda: store.read(NAME, 0, 1)) == b"x"


@on_servers
def test_a_call_that_hangs_ends_with_the_store(bed):
    store = bed.store(deadline_s=3600)
    assert store.publish(NAME, [b"x"])
    bed.hang()

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(store.size, NAME)
        store.close()
        with pytest.raises(ArchiveUnavailable, match="stopping"):
            call.result()
    bed.come_back()


@on_servers
def test_who_never_heard_that_it_is_published_finds_his_own(bed):
    store = bed.store(deadline_s=2.0)
    until_it_works(store.probe)
    bed.lose_answers()
    with pytest.raises(ArchiveUnavailable):
        store.publish(NAME, [b"my own"])

    bed.come_back()

    assert until_it_works(lambda: store.publish(NAME, [b"my own"]))
    assert not bed.store("arc-2").publish(NAME, [b"another's"])
    assert store.read(NAME, 0, 100) == b"my own"
