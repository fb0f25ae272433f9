"""Two archive nodes on one archive, as processes: each takes over from the other, and no sample is lost or twice."""

import random
import signal
from datetime import UTC, datetime

import pytest

from edged.cli.demo.processes import Child
from tests.support.s3 import BUCKET, Versitygw, need_versitygw
from tests.support.site import Site, following, moment, running, stopped

RATE = 100.0
NODES = ("north", "south")
SOURCE = ".archive.fashion.pi-a/0"


def writes(node: Child) -> bool:
    """Whether the node has the edge's source, by what it has said."""
    changes = [line for line in node.lines if any(each.endswith(SOURCE) for each in line.get("partitions", ()))]
    return bool(changes) and changes[-1]["event"] == "archive.assigned"


@pytest.fixture
def s3():
    """The keys of an archive in a bucket of a gateway that does not forget."""
    need_versitygw()
    with Versitygw() as server:
        server.make_bucket(BUCKET)
        access = server.access()
        keys = f'endpoint: "{access.endpoint}", region: {access.region}, access_key: {access.access_key}'
        yield f"url: s3://{BUCKET}/edged, s3: {{{keys}, secret_key: {access.secret_key}}}"


@pytest.mark.parametrize(("place", "kills"), [("folder", 6), ("s3", 3)])
async def test_killed_again_and_again_they_take_over_within_a_minute_and_archive_every_sample_once(
    place, kills, apache_kafka, tmp_path, request
):
    """kill -9 of one of them while it writes files and answers requests; now and then a clean stop."""
    rng = random.Random(16)  # noqa: S311 - picks moments, guards nothing
    settings = {"vaults": NODES, "flush": "100ms", "epochs": 100_000}
    if place != "folder":
        settings["place"] = request.getfixturevalue(place)
    async with running(Site(tmp_path, apache_kafka.bootstrap, site=f"vaults-{place}", **settings)) as site:
        await site.import_fashion(600, test_limit=100)
        nodes = {node: await site.start("run", node) for node in NODES}
        for node in nodes.values():
            await node.wait_for("archive.assigned")
        edge = await site.start("run", "pi-a")
        sensors = await site.start_sensors(RATE)
        await edge.wait_for("train.epoch")
        took_s: dict[str, list[float]] = {"killed": [], "stopped": []}
        for kill in range(kills):
            gone, stays = (nodes[NODES[(kill + turn) % 2]] for turn in range(2))
            busy = next(node for node in (gone, stays) if writes(node))
            await following(busy, "archive.flushed", rng.randint(1, 5))
            num_seen = len(stays.seen("archive.assigned"))
            since = datetime.now(UTC)
            if kill == kills - 1:
                await stopped(gone)
            else:
                gone.signal(signal.SIGKILL)
                await gone.ended()
            taken_over = await stays.wait_for("archive.assigned", num_seen + 1)
            assert taken_over["held"] == 2
            took_s["stopped" if kill == kills - 1 else "killed"].append((moment(taken_over) - since).total_seconds())
            await following(stays, "archive.flushed")
            await following(edge, "train.epoch")
            back = NODES[kill % 2]
            nodes[back] = await site.start("run", back)
            await nodes[back].wait_for("archive.assigned")
        assert max(took_s["killed"]) < 60, took_s
        assert max(took_s["stopped"]) < min(took_s["killed"]), took_s
        assert [sensor.exit_code for sensor in sensors] == [None, None], "the devices published all the time"
        for sensor in sensors:
            await stopped(sensor)
        await site.assert_each_archived_once(nodes["north"])
