"""Topics that others made: a node tells what their settings lose, alters none, and loses nothing that it can keep."""

import asyncio
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.support.brokers import kafka_java
from tests.support.shared_brokers import SharedBroker
from tests.support.site import DEVICES, Site, following, running


async def made(kafka: SharedBroker, settings: Mapping[str, Mapping[str, str]]) -> None:
    """Topics with these settings, by somebody else."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    topics = [NewTopic(name, 1, 1, config=dict(of_topic)) for name, of_topic in settings.items()]
    for done in admin.create_topics(topics).values():
        await asyncio.to_thread(done.result)


def run_tool(command: str) -> None:
    """Run a printed kafka-configs.sh command with Kafka's own class, as the script would."""
    tool, *arguments = shlex.split(command)
    assert tool == "kafka-configs.sh"
    done = subprocess.run(
        kafka_java("kafka.admin.ConfigCommand", *arguments), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_small_and_compacted_topics_are_told_and_packs_are_split(apache_kafka: SharedBroker, tmp_path: Path):
    site = Site(tmp_path, apache_kafka.bootstrap, site="inherited", epochs=1)
    small, compacted = "inherited.archive.fashion.pi-a", "inherited.iot.cam-03"
    await made(apache_kafka, {small: {"max.message.bytes": "20000"}, compacted: {"cleanup.policy": "compact"}})

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

        assert await edge.stop() == 0
        for command in {command for (topic, _), command in told.items() if topic in {small, compacted}}:
            await asyncio.to_thread(run_tool, command)
        edge = await site.start("run", "pi-a")
        await edge.wait_for("ingest.reading")
        await following(edge, "res.sample", 5)
        assert not [line for line in edge.seen("kafka.topic_setting") if line["topic"] in {small, compacted}]


async def test_a_node_waits_for_a_topic_that_takes_nothing_of_its_size_and_goes_on_once_it_does(
    apache_kafka: SharedBroker, tmp_path: Path
):
    """What it cannot split: its requests. The intake goes on meanwhile."""
    topic = "narrow.archive.requests"
    await made(apache_kafka, {topic: {"max.message.bytes": "100"}})

    async with running(Site(tmp_path, apache_kafka.bootstrap, site="narrow", epochs=1)) as site:
        await site.import_fashion(100, test_limit=100)
        vault, edge = await site.start("run", "vault"), await site.start("run", "pi-a")
        source = ("--from", "fashion-mnist-small", "--count", "20", "--rate", "max")
        degraded = await edge.wait_for("health.degraded", part="kafka")
        assert f"too large for topic {topic}; it is taken after: kafka-configs.sh" in degraded["reason"]
        assert await (await site.start("sensor", DEVICES[0], *source)).ended() == 0
        await site.assert_each_archived_once(vault)

        await asyncio.to_thread(run_tool, degraded["reason"].partition("it is taken after: ")[2])

        await edge.wait_for("train.finished")
