"""Topics that others made: a node tells what their settings lose, alters none, and loses nothing that it can keep."""

import asyncio
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.support.shared_brokers import SharedBroker
from tests.support.site import DEVICES, Site, running


async def test_small_and_compacted_topics_are_told_and_packs_are_split(apache_kafka: SharedBroker, tmp_path: Path):
    site = Site(tmp_path, apache_kafka.bootstrap, site="inherited", epochs=1)
    small, compacted = "inherited.archive.fashion.pi-a", "inherited.iot.cam-03"
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    made = admin.create_topics(
        [
            NewTopic(small, 1, 1, config={"max.message.bytes": "20000"}),
            NewTopic(compacted, 1, 1, config={"cleanup.policy": "compact"}),
        ]
    )
    for done in made.values():
        await asyncio.to_thread(done.result)

    async with running(site):
        await site.edged("topics", str(site.topology), "--apply")
        vault, edge = await site.start("run", "vault"), await site.start("run", "pi-a")
        source = ("--from", "fashion-mnist-small", "--count", "150", "--rate", "max")
        for device in DEVICES:
            assert await (await site.start("sensor", device, *source)).ended() == 0

        told = {
            (line["topic"], line["setting"]): line["command"]
            for line in [await edge.wait_for("kafka.topic_setting", times=2), *edge.seen("kafka.topic_setting")]
        }
        assert (compacted, "cleanup.policy") in told
        assert told[small, "max.message.bytes"].endswith(
            f"--entity-name {small} --add-config max.message.bytes=1048576"
        )
        await site.assert_each_archived_once(vault)
