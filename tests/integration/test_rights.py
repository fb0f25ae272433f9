"""Sites on a Kafka that grants nothing by itself: each node has exactly the rights that `edged topics` prints."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edged.cli.demo.processes import Child
from edged.domain.topology.topics import nodes
from tests.support.demo import a_few_articles, assert_whole, run_demo
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


def denied(node: Child) -> list[str]:
    """The rights that the node has missed."""
    return [line["reason"] for line in node.seen("health.degraded") if "may not" in line["reason"]]


async def test_a_site_of_three_tiers_runs_whole_with_exactly_the_printed_rights(
    secured_kafka: SecuredKafka, tmp_path: Path
):
    """One is missing at first: the edge says which, and goes on by itself once the command it names has been run."""
    async with granted(tmp_path, secured_kafka, "granted", source="both", epochs=1) as site:
        await site.import_fashion(300, 100)
        await asyncio.to_thread(secured_kafka.revoke, "pi-a", "Read", "granted.ingest.pi-a")
        vault, edge, companion = await site.start_nodes()
        await edge.until(lambda _: bool(denied(edge)), "it said which right is missing", before="ingest.reading")
        said, command = denied(edge)[0].split("; it may after: ")
        assert said == "User:pi-a may not Read group granted.ingest.pi-a"
        await asyncio.to_thread(secured_kafka.run, command)
        await companion.wait_for("infer.model_loaded")
        source = ("--from", "fashion-mnist-small", "--count", "60", "--rate", "200")
        sensors = [await site.start("sensor", device, *source) for device in DEVICES]
        assert [await sensor.ended() for sensor in sensors] == [0, 0]

        await edge.wait_for("train.finished")
        await site.assert_each_archived_once(vault)
        await site.assert_each_predicted_once(companion)
        assert [*denied(vault), *denied(edge)[1:], *denied(companion)] == []
        for node in (vault, edge, companion):
            assert not node.seen("kafka.topics_missing")


async def test_the_demo_runs_with_exactly_the_rights_that_it_prints(secured_kafka: SecuredKafka, tmp_path: Path):
    login = tmp_path / "security.yaml"
    login.write_text(secured_kafka.security())
    options = ["--broker", secured_kafka.sasl, "--security", str(login), "--site", f"demo-{uuid.uuid4()}"]
    options += ["--data", str(a_few_articles(tmp_path / "articles"))]
    options += ["--edges", "2", "--epochs", "2", "--live", "20"]
    environment = secured_kafka.environment("demo")
    printing = await Child.start("demo --topics", "demo", "--topics", *options, environment=environment)
    assert await printing.ended() == 0, printing.last_words()
    printed = printing.stdout.decode()
    await asyncio.to_thread(secured_kafka.add_users, set(re.findall(r"User:(\S+)", printed)))
    await asyncio.to_thread(secured_kafka.run, printed)

    assert_whole(await run_demo(*options, environment=environment), published=80)
