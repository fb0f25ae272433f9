"""HDFS whose parts are killed, paused and started again while objects are published and read."""

import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.adapters.hdfs import hdfs_store
from edged.adapters.objects.store import Store
from edged.domain.topology import HdfsAccess
from edged.errors import ArchiveUnavailable
from tests.support.hdfs import Hdfs, need_hdfs
from tests.support.object_stores import Interrupted, publish_and_read, until_it_works

PATIENT_S = 600.0
PIECES = [bytes([number]) * (1 << 20) for number in range(24)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Hdfs]:
    need_hdfs()
    with Hdfs() as cluster:
        yield cluster


@pytest.fixture
def root(cluster: Hdfs) -> str:
    cluster.wait(3)
    root = f"hdfs://{cluster.address}/{uuid.uuid4().hex}"
    until_it_works(hdfs_store(root, HdfsAccess(), "arc-1").create)
    return root


@pytest.fixture
def store(root: str) -> Iterator[Store]:
    store = hdfs_store(root, HdfsAccess(), "arc-1")
    yield store
    store.close()


def test_a_datanode_killed_in_the_middle_of_a_publication_costs_nothing(cluster, root):
    store = hdfs_store(root, HdfsAccess(), "arc-1", PATIENT_S)  # the others may be slow, on a busy machine
    killed = []

    def kill() -> None:
        killed.append(cluster.writing_datanode())
        killed[0].kill()

    assert store.publish("f/a", Interrupted(PIECES, 12, kill))

    assert store.size("f/a") == len(PIECES) << 20
    assert all(store.read("f/a", number << 20, 1 << 20) == piece for number, piece in enumerate(PIECES))
    cluster.restart(killed[0])


def test_a_datanode_paused_in_the_middle_is_told_and_what_is_published_is_whole(cluster, store):
    paused = []

    def pause() -> None:
        paused.append(cluster.writing_datanode())
        paused[0].pause()

    pieces = Interrupted(PIECES, 12, pause)
    try:
        store.publish("f/a", pieces)
    except ArchiveUnavailable as error:
        assert re.search("DataNode does not answer|no answer for", str(error))  # noqa: PT017 - it need not be raised
    # Dead to the NameNode after some seconds, it is given no more blocks.
    assert until_it_works(lambda: store.publish("f/a", PIECES))
    assert until_it_works(lambda: store.read("f/a", 23 << 20, 1 << 20)) == PIECES[23]
    paused[0].resume()

    assert all(until_it_works(lambda: store.read("f/a", 0, 3)) == b"\0\0\0" for _ in range(10))
    assert [each.name for each in store.list("f")] == ["a"]


def test_a_namenode_killed_and_started_again_loses_and_doubles_nothing(cluster, store):
    def kill() -> None:
        for _ in range(2):
            cluster.namenode.kill()
            cluster.restart_namenode()

    publish_and_read(store, 60, kill)


def test_a_namenode_that_hangs_is_told_and_goes_on_without_a_restart(cluster, store):
    assert store.publish("f/a", [b"x"])
    cluster.namenode.pause()
    try:
        with pytest.raises(ArchiveUnavailable, match=r"no answer for \d+ s"):
            store.size("f/a")
        for _ in range(20):
            with pytest.raises(ArchiveUnavailable, match="has not returned"):
                store.publish("f/b", [b"x"])
    finally:
        cluster.namenode.resume()

    assert until_it_works(lambda: store.size("f/a")) == 1
    assert until_it_works(lambda: store.publish("f/b", [b"x"]))


ASKS = """
import sys, threading
from edged.adapters.hdfs import hdfs_store
from edged.domain.topology import HdfsAccess
from edged.errors import ArchiveUnavailable
store = hdfs_store(sys.argv[1], HdfsAccess(), "arc-1", deadline_s=3600)
def ask():
    print("asks", flush=True)
    try:
        store.size("f/a")
    except ArchiveUnavailable as error:
        print(error, flush=True)
thread = threading.Thread(target=ask)
thread.start()
sys.stdin.readline()
store.close()
thread.join()
"""


def test_a_process_ends_while_the_server_is_frozen(cluster, root):
    cluster.namenode.pause()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", ASKS, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "asks\n"
        said, _ = process.communicate("\n")
    finally:
        cluster.namenode.resume()

    assert process.returncode == 0
    assert "this node is stopping" in said
