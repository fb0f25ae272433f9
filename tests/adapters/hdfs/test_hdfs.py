"""HDFS: what its errors mean, and what an interrupted writer leaves."""

import gc
import uuid
from dataclasses import dataclass

import pytest
from hdfs_native import Client, WriteOptions

from edged.adapters.hdfs import hdfs_store
from edged.adapters.hdfs.reasons import translated
from edged.adapters.objects.leftovers import is_temporary
from edged.adapters.objects.store import Store
from edged.domain.topology import HdfsAccess
from edged.errors import ArchiveFull, ArchiveUnavailable
from tests.support.object_stores import Interrupted
from tests.support.proxy import Proxy
from tests.support.s3 import AnsweringS3

PATIENT_S = 600.0
NAME = "fashion/pi-a/0/a.parquet"


@dataclass
class Place:
    address: str
    folder: str

    def store(self, writer: str = "arc-1") -> Store:
        return hdfs_store(f"hdfs://{self.address}{self.folder}", HdfsAccess(), writer, PATIENT_S)

    def client(self) -> Client:
        return Client(f"hdfs://{self.address}")

    def names(self) -> list[str]:
        """All files, temporary ones too."""
        return [
            each.path.removeprefix(f"{self.folder}/") for each in self.client().list_status(self.folder, recursive=True)
        ]


@pytest.fixture
def place(hdfs) -> Place:
    place = Place(f"127.0.0.1:{hdfs.port}", f"/{uuid.uuid4().hex}")
    place.store().create()
    return place


def test_a_published_file_leaves_no_other(place):
    assert place.store().publish(NAME, [b"x"])
    assert not place.store().publish(NAME, [b"y"])

    assert [name for name in place.names() if "." in name] == [NAME]


def test_a_writer_that_failed_asks_nothing_more_of_a_server_that_hangs(hdfs):
    """As the client's own would, when it is collected: in whatever thread that is, the event loop's too."""
    with Proxy(hdfs.port) as proxy:
        place = Place(f"127.0.0.1:{proxy.port}", f"/{uuid.uuid4().hex}")
        store = place.store()
        store.create()

        def break_connection() -> None:
            proxy.refuse = True
            proxy.cut()

        with pytest.raises(ArchiveUnavailable):
            store.publish(NAME, Interrupted([b"x" * (1 << 20)] * 3, 1, break_connection))
        proxy.refuse, proxy.blackhole = False, True

        gc.collect()

        store.close()


def test_what_a_killed_writer_left_is_no_object_and_is_swept_by_its_next_process(place):
    folder = NAME.rpartition("/")[0]
    for name in (".a.parquet.tmp-arc-1-0badcafe-7", ".a.parquet.tmp-arc-2-0badcafe-7"):
        unfinished = place.client().create(f"{place.folder}/{folder}/{name}", WriteOptions(create_parent=True))
        unfinished.write(b"half")
    store = place.store("arc-1")
    assert list(store.list(folder)) == []
    assert store.publish(NAME, [b"whole"])

    store.sweep(folder)

    assert [name for name in place.names() if is_temporary(name.rpartition("/")[2])] == [
        f"{folder}/.a.parquet.tmp-arc-2-0badcafe-7"
    ]
    assert store.read(NAME, 0, 10) == b"whole"


def test_who_has_no_right_is_named_with_what_is_lacking(place, monkeypatch):
    monkeypatch.setenv("HADOOP_USER_NAME", "mallory")
    store = place.store()

    with pytest.raises(ArchiveUnavailable, match=r'the user "mallory" has no right to WRITE there: `hdfs dfs -chown`'):
        store.publish(NAME, [b"x"])
    with pytest.raises(ArchiveUnavailable, match="mallory"):
        store.probe()


def test_a_web_port_is_told_from_the_namenodes_own():
    with AnsweringS3(lambda _method, _path: (200, b"<html>")) as server:
        address = str(server.access.endpoint).removeprefix("http://")
        store = hdfs_store(f"hdfs://{address}/edged", HdfsAccess(), "arc-1")

        with pytest.raises(ArchiveUnavailable, match=r"a web server answers at .* RPC port, usually 8020"):
            store.probe()


def test_a_port_where_nobody_listens_is_told():
    store = hdfs_store("hdfs://127.0.0.1:1/edged", HdfsAccess(), "arc-1")

    with pytest.raises(ArchiveUnavailable, match=r"hdfs://127\.0\.0\.1:1/edged: nobody listens at 127\.0\.0\.1:1"):
        store.probe()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hdfs://namenode.invalid:8020/edged", "the host's name is not known here"),
        ("hdfs://namenode/edged", "the URL has no port, usually 8020"),
        ("hdfs:///edged", "the URL has no host, and Hadoop's configuration no fs.defaultFS"),
    ],
)
def test_an_address_that_is_none_is_told(url, expected, monkeypatch):
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    monkeypatch.delenv("HADOOP_HOME", raising=False)

    with pytest.raises(ArchiveUnavailable, match=expected):
        hdfs_store(url, HdfsAccess(), "arc-1").probe()


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        ("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException: The DiskSpace quota of /edged is exceeded",
         ArchiveFull, "a quota or the cluster's room is used up"),
        ("org.apache.hadoop.hdfs.server.namenode.SafeModeException: Cannot create file. Name node is in safe mode",
         ArchiveUnavailable, "the NameNode is in safe mode"),
        ("org.apache.hadoop.ipc.StandbyException: Operation category READ is not supported in state standby",
         ArchiveUnavailable, "this NameNode is on standby"),
        ("File /edged/a could only be written to 0 of the 1 minReplication nodes",
         ArchiveUnavailable, "no DataNode takes"),
        ("SIMPLE authentication is not enabled.  Available:[TOKEN, KERBEROS]", ArchiveUnavailable, "wants Kerberos"),
        ("No data received for 6000ms", ArchiveUnavailable, "a DataNode does not answer"),
        ("something else", ArchiveUnavailable, "RuntimeError: something else"),
    ],
)  # fmt: skip
def test_what_the_namenode_says_is_told_with_what_to_do(error, kind, expected):
    told = translated(RuntimeError(error), "hdfs://nn:8020/edged/a", "")

    assert type(told) is kind
    assert str(told).startswith("hdfs://nn:8020/edged/a: ")
    assert expected in str(told)
