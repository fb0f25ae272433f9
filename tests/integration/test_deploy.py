"""What an edge deploys and its companion serves, as real processes."""

import shutil
from pathlib import Path

import pytest

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.tflite.reader import read_tflite
from edged.cli.demo.observer import observe
from edged.cli.demo.processes import Child
from edged.ports import DeployedModel
from tests.support.hostile_models import crashing, sound
from tests.support.site import FASHION, Site, running


async def trained_and_served(site: Site) -> tuple[Child, Child]:
    """The edge and the companion, once training is over and the newest model serves."""
    await site.import_fashion(1500)
    await site.start("run", "vault")
    edge, companion = await site.start("run", "pi-a"), await site.start("infer", "pi-a")
    finished = await edge.wait_for("train.finished")
    await companion.wait_for("infer.model_loaded", generation=finished["step"])
    return edge, companion


def deployed(site: Site) -> Path:
    return site.state("pi-a") / "model.tflite"


async def test_int8_models_reach_the_companion_and_serve_as_a_backbone_later(embedded_broker, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    async with running(Site(first, embedded_broker.bootstrap, epochs=2, site="int8", deploy="int8")) as site:
        edge, companion = await trained_and_served(site)
        assert (await edge.wait_for("checkpoint.deployed"))["format"] == "int8"
        assert (await companion.wait_for("infer.runtime"))["delegate"] == "xnnpack"
        shutil.copy(deployed(site), second / "features.tflite")

    head = {"model": "[dense: 10]", "more": "backbone: {model: features.tflite}"}
    async with running(Site(second, embedded_broker.bootstrap, epochs=2, site="head", **head)) as site:
        edge, _ = await trained_and_served(site)
        first_epoch = await edge.wait_for("train.epoch", epoch=0)
        assert 0 < first_epoch["decode_fraction"] < 1  # with it come the features
        assert (await edge.wait_for("train.epoch", epoch=1))["test_accuracy"] > 0.7
        kinds = [layer.kind for layer in read_tflite(deployed(site).read_bytes()).layers]
        assert kinds == ["conv2d", "max_pool2d", "flatten", "dense"]


@pytest.mark.parametrize("deploy", ["float32", "int8"])
async def test_an_autoencoder_tells_how_unusual_each_sample_is(embedded_broker, tmp_path, deploy):
    model = "[flatten, dense: {units: 32, activation: relu}, dense: 784]"
    settings = {"model": model, "more": "loss: mean_squared_error", "epochs": 2, "deploy": deploy}
    async with running(Site(tmp_path, embedded_broker.bootstrap, site=f"unusual-{deploy}", **settings)) as site:
        edge, companion = await trained_and_served(site)
        threshold = edge.seen("train.epoch")[-1]["anomaly_threshold"]
        await site.edged(
            "sensor", str(site.topology), "--node", "cam-01", "--from", "fashion-mnist-small", "--split", "test",
            "--count", "200", "--rate", "400",
        )  # fmt: skip
        await site.assert_each_predicted_once(companion)
        async with observe(site.loaded()) as observed:
            told = await observed.predictions("pi-a")
        (said,) = {each.anomaly_threshold for each in told}
        assert said == pytest.approx(threshold, abs=1e-6)
        assert 0 < sum(each.is_anomalous for each in told) < 0.1 * len(told)
        assert sum(line["anomalous"] for line in companion.seen("infer.predicted")) == sum(
            each.is_anomalous for each in told
        )


async def test_a_hostile_model_with_a_right_digest_is_refused_and_the_one_before_it_serves(embedded_broker, tmp_path):
    """It would end the companion's process at each start."""
    shape, labels = (28, 28, 1), tuple(FASHION.strip("[]").split(", "))
    async with running(Site(tmp_path, embedded_broker.bootstrap, site="hostile")) as site:
        models = CheckpointDir(site.state("pi-a"))
        for generation, content in ((1, sound(shape, labels)), (2, crashing(shape, labels))):
            models.deploy(DeployedModel(generation, content, labels, shape))
        await site.edged(
            "sensor", str(site.topology), "--node", "cam-01", "--from", "fashion-mnist-small", "--count", "3",
        )  # fmt: skip
        companion = await site.start("infer", "pi-a")
        refused = await companion.wait_for("infer.model_refused", generation=2)
        assert refused["reason"] == "the probe ended with SIGFPE"
        await companion.wait_for("infer.model_loaded", generation=1)
        await site.assert_each_predicted_once(companion)
        kept = models.newest_model()
        assert kept is not None
        assert kept.content == crashing(shape, labels)  # for whoever looks into it
