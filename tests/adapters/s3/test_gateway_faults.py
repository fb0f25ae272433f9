"""A real S3 gateway that is killed, paused and started again while objects are published and read."""

from collections.abc import Iterator

import pytest

from edged.adapters.objects.store import Store
from edged.adapters.s3 import s3_store
from edged.errors import ArchiveUnavailable
from tests.support.object_stores import publish_and_read, until_it_works
from tests.support.s3 import BUCKET, Versitygw, need_versitygw


@pytest.fixture
def gateway(process: None) -> Iterator[Versitygw]:
    need_versitygw()
    with Versitygw() as gateway:
        yield gateway


@pytest.fixture
def store(gateway: Versitygw) -> Iterator[Store]:
    store = s3_store(f"s3://{BUCKET}/edged", gateway.access(), "arc-1")
    yield store
    store.close()


def test_a_gateway_killed_and_started_again_loses_and_doubles_nothing(gateway, store):
    def kill() -> None:
        for _ in range(4):
            gateway.kill()
            gateway.start()

    publish_and_read(store, 40, kill)


def test_a_gateway_that_is_down_at_first_is_told_and_used_once_it_is_up(gateway):
    gateway.stop()
    store = s3_store(f"s3://{BUCKET}/edged", gateway.access(), "arc-1")
    with pytest.raises(ArchiveUnavailable, match=r"nobody|refused"):
        store.probe()

    gateway.start()

    assert list(until_it_works(store.probe)) == []


def test_a_gateway_that_hangs_is_told_and_goes_on_without_a_restart(gateway):
    store = s3_store(f"s3://{BUCKET}/edged", gateway.access(), "arc-1", deadline_s=1.0)
    assert until_it_works(lambda: store.publish("f/a", [b"x"]))
    gateway.pause()
    try:
        with pytest.raises(ArchiveUnavailable, match=r"no answer for \d+ s"):
            store.size("f/a")
        for _ in range(20):
            with pytest.raises(ArchiveUnavailable, match="has not returned"):
                store.publish("f/b", [b"x"])
    finally:
        gateway.resume()

    assert until_it_works(lambda: store.size("f/a")) == 1
    assert until_it_works(lambda: store.publish("f/b", [b"x"]))
