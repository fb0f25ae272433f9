"""Which store an archive's URL names."""

import sys

import pytest

from edged import extras
from edged.app.objects import object_store
from edged.domain.topology import Archive, S3Access


@pytest.mark.parametrize(
    ("archive", "where"),
    [
        (Archive("arc", "file:///srv/edged/"), "/srv/edged"),
        (Archive("arc", "hdfs://namenode:8020//edged/"), "hdfs://namenode:8020/edged"),
        (Archive("arc", "s3://bucket/edged/"), "s3://bucket/edged"),
        (Archive("arc", "s3://bucket", s3=S3Access("https://s3.lan")), "s3://bucket at https://s3.lan"),
    ],
)
def test_the_url_says_which_store_it_is_and_nothing_is_asked_of_it_yet(archive, where):
    assert object_store(archive, "arc").where == where


@pytest.mark.parametrize(("url", "client"), [("hdfs://n:8020/e", "hdfs_native"), ("s3://b/e", "obstore")])
def test_a_client_that_is_not_installed_is_named_with_its_extra(url, client, monkeypatch):
    kind = url.partition("://")[0]
    for name in [name for name in sys.modules if name.startswith((client, f"edged.adapters.{kind}"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, client, None)

    with pytest.raises(ModuleNotFoundError) as raised:
        object_store(Archive("arc", url), "arc")

    told = extras.missing(raised.value)
    assert told.startswith(f"{client} is not installed: ")
    assert f"'.[{kind}]'" in told
