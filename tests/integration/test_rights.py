"""Sites on a Kafka that grants nothing by itself: each node has exactly the rights that `edged topics` prints."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edged.cli.demo.processes import Child
from edged.domain.topology.topics import nodes
from tests.support.demo import assert_whole, run_demo
from tests.support.secured import SecuredKafka
from tests.support.site import DEVICES, Site, running


@asynccontextmanager
async def granted(folder: Path, kafka: SecuredKafka, name: str, **settings: object) -> AsyncIterator[Site]:
    """A site whose topics an administrator has made, and whose rights are the printed ones."""
    site = Site(folder, kafka, site=name, **settings)
    await asyncio.to_thread(kafka.add_users, nodes(site.loaded()))
    await asyncio.to_thread(kafka.run, await site.printed())
    async with running(site):
        yield site


async def test_a_site_of_three_tiers_runs_whole_with_exactly_the_printed_rights(
    secured_kafka: SecuredKafka, tmp_path: Path
):
    async with granted(tmp_path, secured_kafka, "granted", source="both", epochs=1) as site:
        await site.import_fashion(300, 100)
        vault, edge, companion = await site.start_nodes()
        await companion.wait_for("infer.model_loaded")
        source = ("--from", "fashion-mnist-small", "--count", "60", "--rate", "200")
        sensors = [await site.start("sensor", device, *source) for device in DEVICES]
        assert [await sensor.ended() for sensor in sensors] == [0, 0]

        await edge.wait_for("train.finished")
        await site.assert_each_archived_once(vault)
        await site.assert_each_predicted_once(companion)
        for node in (vault, edge, companion):
            assert not [line for line in node.seen("health.degraded") if "may not" in line["reason"]]
            assert not node.seen("kafka.topics_missing")


async def test_the_demo_runs_with_exactly_the_rights_that_it_prints(secured_kafka: SecuredKafka, tmp_path: Path):
    login = tmp_path / "security.yaml"
    login.write_text(secured_kafka.security())
    options = ["--broker", secured_kafka.sasl, "--security", str(login), "--site", f"demo-{uuid.uuid4()}"]
    options += ["--edges", "2", "--epochs", "2", "--live", "20"]
    environment = secured_kafka.environment("demo")
    printing = await Child.start("demo --topics", "demo", "--topics", *options, environment=environment)
    assert await printing.ended() == 0, printing.last_words()
    printed = printing.stdout.decode()
    await asyncio.to_thread(secured_kafka.add_users, set(re.findall(r"User:(\S+)", printed)))
    await asyncio.to_thread(secured_kafka.run, printed)

    assert_whole(await run_demo(*options, environment=environment), published=80)
