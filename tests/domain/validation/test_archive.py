"""The archive's URL, and the keys by which its store is reached."""

from dataclasses import replace

import pytest

from edged.domain.topology import Archive, HdfsAccess, Retention, S3Access, StreamRetention, Topology
from tests.support.valid_topology import VALID, problems, warnings, with_training

WARNED = 'the stream "tiles" is trained on live: an edge that lags, or was away, misses what has been deleted meanwhile'


def of_nodes(*urls: str, **first) -> Topology:
    nodes = [Archive(f"vault-{i}", url) for i, url in enumerate(urls)]
    return replace(VALID, archive=(replace(nodes[0], **first), *nodes[1:]) if nodes else ())


def test_there_is_an_archive_node():
    assert problems(of_nodes()) == [("archive", "there is no archive node")]


def test_several_nodes_share_one_archive():
    other = 'not that of "vault-0": the archive nodes of a site share the work on one archive'

    assert problems(of_nodes("file:///x", "file:///x")) == []
    assert problems(of_nodes("file:///x", "file:///y", "file:///x")) == [("archive[1].url", other)]


def test_several_nodes_reach_it_at_one_gateway():
    site = of_nodes("s3://b/x", "s3://b/x", s3=S3Access("https://s3.lan"))
    other = 'not that of "vault-0": the archive nodes of a site share the work on one archive'

    assert ("archive[1].s3.endpoint", other) in problems(site)


def test_several_nodes_on_local_files_are_a_warning_for_they_may_be_on_several_machines():
    seen = "each archive node must see the same files there: fine on one machine, and where all mount one file system"

    assert ("archive[1].url", seen) in warnings(of_nodes("file:///x", "file:///x"))
    assert "archive[1].url" not in dict(warnings(of_nodes("file:///x")))
    assert "archive[1].url" not in dict(warnings(of_nodes("hdfs://n/x", "hdfs://n/x")))


def test_several_nodes_that_do_not_all_trim_are_a_warning():
    told = 'not as that of "vault-0": what is deleted from Kafka depends on which node has a source'

    assert ("archive[1].trim", told) in warnings(of_nodes("hdfs://n/x", "hdfs://n/x", trim=True))


def test_several_nodes_forget_by_the_same_limits():
    told = 'not that of "vault-0": what is forgotten would depend on which node has a source'

    assert problems(of_nodes("s3://b/x", "s3://b/x", retention=Retention(60.0))) == [("archive[1].retention", told)]


def test_limits_are_of_streams_that_there_are_and_a_full_disk_is_a_local_one():
    retention = Retention(streams=(StreamRetention("tile", 60.0),))

    found = problems(of_nodes("hdfs://n/x", retention=retention, when_full="oldest_first"))

    assert found == [
        ("archive[0].retention.streams.tile", 'there is no stream "tile"'),
        ("archive[0].when_full", "only file:// uses it"),
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file://srv/edged", "file:// takes an absolute path"),
        ("file:srv", "file:// takes an absolute path"),
        ("/srv/edged", "the archive's URL begins with file://, hdfs:// or s3://"),
        ("ftp://host/x", "the archive's URL begins with file://, hdfs:// or s3://"),
        ("file:///srv?x=1", "the archive's URL has no '?' and no '#'"),
        ("s3://key:secret@bucket/x", "a URL holds no user name or password here"),
        ("file://[", "it is not a URL"),
        ("s3://bucket:x/edged", "it is not a URL"),
        ("s3:///edged", "s3:// takes a bucket"),
        ("s3://bucket:9000/edged", "s3:// takes a bucket"),
        ("hdfs://namenode:9870/edged", "9870 is the NameNode's web port"),
        ("hdfs://namenode:50070/edged", "50070 is the NameNode's web port"),
    ],
)
def test_the_archives_url_is_one_that_can_be_written_to(url, message):
    assert ("archive[0].url", message) in problems(replace(VALID, archive=(Archive("vault", url),)))


def of_store(url: str, **access) -> list[tuple[str, str]]:
    """What is wrong with the keys alone: that such a URL is not taken yet is another rule."""
    found = problems(replace(VALID, archive=(Archive("vault", url, **access),)))
    return [each for each in found if each[0] != "archive[0].url"]


@pytest.mark.parametrize(
    ("url", "access", "expected"),
    [
        ("file:///srv/edged", {"s3": S3Access("https://s3.lan")}, [("archive[0].s3", "only s3:// uses it")]),
        ("s3://bucket", {"hdfs": HdfsAccess("/etc/hadoop/conf")}, [("archive[0].hdfs", "only hdfs:// uses it")]),
        ("s3://bucket", {"s3": S3Access(None, None, "a")},
         [("archive[0].s3.access_key", "it is used only with its secret_key")]),
        ("s3://bucket", {"s3": S3Access(None, None, None, "a")},
         [("archive[0].s3.secret_key", "it is used only with its access_key")]),
        ("s3://bucket", {"s3": S3Access(None, None, None, None, "a")},
         [("archive[0].s3.session_token", "it is used only with its access_key")]),
        ("hdfs://namenode:8020/edged", {"hdfs": HdfsAccess(keytab="/x")},
         [("archive[0].hdfs.keytab", "it is used only with its principal")]),
        ("s3://bucket/edged", {"s3": S3Access("https://s3.lan", "eu-central-1", "a", "b", "c", "/ca.pem")}, []),
        ("hdfs://namenode:8020/edged", {"hdfs": HdfsAccess("/etc/hadoop/conf", "edged@LAN", "/keytab")}, []),
        ("hdfs:///edged", {}, []),
    ],
)  # fmt: skip
def test_keys_of_a_store_belong_to_its_url_and_together(url, access, expected):
    assert of_store(url, **access) == expected


def test_secrets_of_a_store_are_in_no_repr():
    shown = repr(S3Access("https://s3.lan", "eu-central-1", "AKIA", "a-secret", "a-token"))

    assert not any(secret in shown for secret in ("AKIA", "a-secret", "a-token"))


@pytest.mark.parametrize(
    ("endpoint", "is_told"),
    [
        ("http://s3.lan:9000", True),
        ("https://s3.lan", False),
        ("http://127.0.0.1:7070", False),
        ("http://[::1]", False),
    ],
)
def test_samples_over_the_network_unencrypted_are_a_warning(endpoint, is_told):
    archive = replace(VALID.archive[0], s3=S3Access(endpoint))

    found = [path for path, _ in warnings(replace(VALID, archive=(archive,)))]

    assert found == (["archive[0].s3.endpoint"] if is_told else [])


def test_deleting_what_is_archived_under_live_training_is_a_warning():
    trimming = (replace(VALID.archive[0], trim=True),)

    assert warnings(replace(VALID, archive=trimming)) == []
    live = with_training(source="both")
    assert ("archive[0].trim", WARNED) in warnings(replace(live, archive=trimming))
    assert ("archive[0].trim", WARNED) not in warnings(live)
