"""`edged demo`, as a user starts it, on the embedded broker and on Apache Kafka."""

import asyncio
import json
import os
import signal
import sys

import psutil
import pytest

from edged.cli.demo.children import Child

pytestmark = pytest.mark.integration


async def run_demo(*arguments: str) -> dict[str, object]:
    child = await Child.start("demo", "demo", "--json", *arguments)
    assert await child.ended() == 0, child.last_words() + child.stdout.decode()
    summary = json.loads(child.stdout.decode().strip().splitlines()[-1])
    assert isinstance(summary, dict)
    return summary


def assert_whole(summary: dict[str, object], *, published: int) -> None:
    """Every published live sample was archived and predicted exactly once."""
    counts = {key: summary[key] for key in ("published", "archived", "predicted", "archived_twice", "predicted_twice")}
    assert counts == {
        "published": published,
        "archived": published,
        "predicted": published,
        "archived_twice": 0,
        "predicted_twice": 0,
    }
    assert summary["dead_lettered"] == 0


async def test_three_tiers_on_the_embedded_broker():
    """All three tiers work on real images, and the figures are there."""
    summary = await run_demo("--epochs", "3", "--live", "120")

    assert_whole(summary, published=240)
    assert isinstance(summary["test_accuracy"], float)
    assert summary["test_accuracy"] > 0.75
    assert {"samples_per_s", "data_wait_fraction", "peak_rss_mib", "prediction_p99_ms", "wall_s"} <= summary.keys()


async def test_two_edges_have_two_devices_each():
    """--edges N gives each edge its own devices and companion."""
    summary = await run_demo("--epochs", "1", "--live", "40", "--edges", "2")

    assert_whole(summary, published=160)


async def test_three_tiers_on_apache_kafka(apache_kafka):
    """A real Kafka broker carries the same run; the demo's topics are gone afterwards."""
    summary = await run_demo("--epochs", "2", "--live", "80", "--broker", apache_kafka.bootstrap)

    assert_whole(summary, published=160)


async def test_a_demo_of_a_folder_of_jpegs(birds):
    """--data takes a tree of class folders; the devices send the JPEGs as they are."""
    summary = await run_demo("--epochs", "1", "--live", "20", "--data", str(birds))

    assert_whole(summary, published=40)


async def test_nothing_is_left_behind_after_ctrl_c(tmp_path):
    """Ctrl-C in the middle: no process, no file."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path / "home")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edged", "demo", "--epochs", "50",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    while b"epoch 2/" not in (line := await process.stdout.readline()):
        assert line, "the demo ended before its second epoch"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 4

    process.send_signal(signal.SIGINT)
    await process.stdout.read()

    assert await process.wait() == 130
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
