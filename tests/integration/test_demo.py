"""`edged demo`, as a user starts it, on the embedded broker and on Apache Kafka."""

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from confluent_kafka.admin import AdminClient

from edged.adapters.images import encode
from tests.support.data import birds
from tests.support.demo import a_few_articles, assert_whole, run_demo
from tests.support.forked import start_forked
from tests.support.hdfs import hdfs_program, need_hdfs
from tests.support.mosquitto import need_mosquitto
from tests.support.s3 import need_versitygw, versitygw_program

MAX_EDGE_MIB = 120
"""Resident, of the edge's daemon: its share of a Raspberry Pi with 512 MiB."""


async def refusal(*arguments: str) -> str:
    """What a demo says that ends as wrong usage."""
    child = await start_forked("demo", "demo", *arguments, environment={})
    assert await child.ended() == 64
    assert child.stdout == b""
    return child.noise[-1]


def assert_kept(folder: Path) -> None:
    """The topology, the archive, the checkpoints with their models, and a log for each process."""
    for pattern in (
        "topology.yaml",
        "archive/**/*.parquet",
        "state/edged/pi-a/checkpoint-*.safetensors",
        "state/edged/pi-a/**/*.tflite",
        *(f"{name}.log" for name in ("run-vault", "infer-pi-a", "sensor-cam-a1", "sensor-cam-a2")),
    ):
        assert list(folder.glob(pattern)), f"no {pattern}"
    events = [json.loads(line)["event"] for line in (folder / "run-pi-a.log").read_text().splitlines()]
    assert (events[0], events[-1]) == ("life.started", "life.stopped")


def a_few_birds(folder: Path, classes: int) -> Path:
    """A tree of JPEGs, train/ and test/, with the first classes."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for species in sorted((birds() / split).iterdir())[:classes]:
            shutil.copytree(species, folder / split / species.name)
    return folder


async def test_three_tiers_on_the_embedded_broker(tmp_path):
    """All three tiers work on real images, the figures are there, and --keep keeps everything."""
    summary = await run_demo("--epochs", "3", "--live", "120", "--keep", str(tmp_path), is_forked=False)

    assert_whole(summary, published=240)
    assert summary["test_accuracy"] > 0.75
    assert (summary["backend"] == "numpy") == (summary["no_kernels"] is not None)
    assert {"samples_per_s", "data_wait_fraction", "blocked_fraction", "prediction_p99_ms", "wall_s"} <= summary.keys()
    assert all(0 < mib < 400 for mib in summary["peak_rss_mib"].values())
    assert summary["peak_rss_mib"]["run pi-a"] <= MAX_EDGE_MIB
    assert_kept(tmp_path)
    assert "is not empty" in await refusal("--keep", str(tmp_path))


@pytest.mark.slow
async def test_the_thesis_own_path_by_mqtt_and_back(tmp_path):
    """Both devices publish by MQTT, and each gets all its predictions back by it."""
    need_mosquitto()
    data = a_few_articles(tmp_path / "articles")
    summary = await run_demo("--mqtt", "--data", str(data), "--epochs", "2", "--live", "60")

    assert_whole(summary, published=120)
    assert summary["way_back"]["delivered"] == 120
    assert summary["way_back"]["delivered_twice"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("archive", ["s3", "hdfs"])
async def test_the_archive_is_in_a_store_that_the_demo_starts(archive, tmp_path, monkeypatch):
    """By programs on the PATH of the names that their packages give them."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if archive == "s3":
        need_versitygw()
        (programs / "versitygw").symlink_to(versitygw_program())
    else:
        need_hdfs()
        hdfs_program(programs)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    data = a_few_articles(tmp_path / "articles")

    words = ("--archive", archive, "--data", str(data), "--epochs", "2", "--live", "60")
    summary = await run_demo(*words, is_forked=False)

    assert_whole(summary, published=120)


async def test_two_edges_train_one_model_also_when_one_is_killed(tmp_path):
    """Each has its own devices and companion; the killed one comes back, and both end with the log's weights."""
    data = a_few_articles(tmp_path / "articles", to_train_on=2000, to_test_on=300)

    summary = await run_demo("--data", str(data), "--epochs", "3", "--live", "40", "--edges", "2", "--kill", "auto")

    assert_whole(summary, published=160)
    assert {"run pi-a", "infer pi-a", "run pi-b", "infer pi-b"} <= summary["peak_rss_mib"].keys()
    group = summary["group"]
    a, b = group["edges"]["pi-a"], group["edges"]["pi-b"]
    assert group["is_identical"]
    assert a["weights"] == b["weights"] == group["weights"]
    assert group["proofs"] == 5, "three epochs and two checkpoints"
    assert (group["outage"]["edge"], group["outage"]["epoch"]) == ("pi-b", 1)
    assert group["outage"]["caught_up"] > 0
    assert b["missed"] > 0
    assert group["steps"] > group["outage"]["step"] + 1, "the other one went on"
    assert a["samples"] + b["samples"] == summary["trained_samples"]
    assert summary["test_accuracy"] > 0.5


async def test_a_real_broker_is_left_as_it_was(apache_kafka, tmp_path):
    """Apache Kafka carries the same run; the demo's topics are gone afterwards."""
    data = a_few_articles(tmp_path / "articles")

    summary = await run_demo("--data", str(data), "--epochs", "2", "--live", "80", "--broker", apache_kafka.bootstrap)

    assert_whole(summary, published=160)
    topics = AdminClient({"bootstrap.servers": apache_kafka.bootstrap}).list_topics(timeout=60).topics
    assert [name for name in topics if name.startswith("demo-")] == []


async def test_a_tree_of_jpegs_is_trained_on_and_sent_as_it_is(tmp_path):
    """--data takes a folder for each class; the devices send the files' own bytes."""
    data, kept = a_few_birds(tmp_path / "birds", classes=4), tmp_path / "kept"

    summary = await run_demo("--epochs", "2", "--live", "20", "--data", str(data), "--keep", str(kept))

    assert_whole(summary, published=40)
    assert summary["import_samples"] == 4 * 50 + 4 - 40
    assert 0 < summary["test_accuracy"] <= 1


async def test_a_tree_that_is_not_divided_is_divided_by_the_demo(tmp_path):
    """Without train/ and test/ a tenth is held out, and all three parts are disjoint."""
    data = a_few_birds(tmp_path / "birds", classes=3) / "train"

    summary = await run_demo("--epochs", "1", "--live", "10", "--data", str(data))

    assert_whole(summary, published=20)
    count = sum(1 for _ in data.glob("*/*.jpg"))
    assert summary["import_samples"] == count - round(count / 10) - 20


async def test_data_that_cannot_be_shown_are_refused(tmp_path):
    """What is wrong with the data is said in a line, before anything starts."""
    assert "no such file or folder" in await refusal("--data", str(tmp_path / "nowhere"))
    assert "too few images" in await refusal("--live", "4000")
    (tmp_path / "numbers.csv").write_text("a,b,label\n1,2,x\n3,4,y\n")
    assert "the demo trains on images" in await refusal("--data", str(tmp_path / "numbers.csv"))
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.jpg").write_bytes(encode(np.zeros((8, 8, 3), np.uint8), "jpeg"))
    assert "no labels" in await refusal("--data", str(tmp_path / "flat"))


async def test_without_live_samples_it_trains_all_the_same(tmp_path):
    """--live 0: no device publishes, and no figure is made up."""
    data = a_few_articles(tmp_path / "articles")

    summary = await run_demo("--data", str(data), "--epochs", "1", "--live", "0")

    assert_whole(summary, published=0)
    assert summary["live_accuracy"] is summary["prediction_p50_ms"] is None


async def test_images_that_are_broken_are_left_out_and_not_waited_for(tmp_path):
    """Neither imported nor published: each device goes on to the next one."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(20):
            image = np.full((16, 16, 3), 10 * number, np.uint8)
            whole = encode(image, "jpeg")
            (tmp_path / name / f"{number}.jpg").write_bytes(whole if number % 2 else whole[: len(whole) // 2])

    summary = await run_demo("--epochs", "1", "--live", "5", "--data", str(tmp_path))

    assert summary["whole"]
    assert summary["dead_lettered"] == 0
    assert summary["published"] == 10 == summary["predicted"]
    assert 0 < summary["import_samples"] <= 10


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
async def test_nothing_is_left_behind_after_it_is_stopped(number, tmp_path, tmp_path_factory):
    """Ctrl-C and SIGTERM in the middle: no process, no file, and the signal's exit code."""
    data = a_few_articles(tmp_path_factory.mktemp("data") / "articles")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path / "home")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edged", "demo", "--data", str(data), "--epochs", "50",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    while b"epoch  2/" not in (line := await process.stdout.readline()):
        assert line, "the demo ended before its second epoch"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 4

    process.send_signal(number)
    _, err = await process.communicate()

    assert (process.returncode, err.decode()) == (128 + number, "edged demo: stopped; nothing is left behind\n")
    # The kernel kills a node's own child a moment after the node; one that stayed would be waited for until the guard.
    await asyncio.to_thread(psutil.wait_procs, family)
    assert list(tmp_path.rglob("edged-demo-*")) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
