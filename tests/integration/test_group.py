"""Two edges as real processes that train one model over a real broker, and one of them killed."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from edged.cli.demo.processes import Child
from edged.domain.nn import param_vector
from edged.domain.training import checkpoint
from tests.support.site import FASHION, SMALL_MODEL, Site, own_name, running, stopped

EDGES = ("pi-a", "pi-b")
TOPOLOGY = """\
schema: 1
site: {site}
kafka: {kafka}
streams:
  fashion:
    sample: {{shape: [28, 28, 1], dtype: uint8}}
    labels: {labels}
iot:
  - {{name: cam-01, edge: pi-a, stream: fashion, codec: raw}}
  - {{name: cam-02, edge: pi-b, stream: fashion, codec: raw}}
edges:
  - {{name: pi-a, prefetch: 4MiB, memory_limit: 400MiB}}
  - {{name: pi-b, prefetch: 4MiB, memory_limit: 400MiB}}
archive:
  - {{name: vault, url: "{archive}", flush: 1s}}
training:
  stream: fashion
  model: {model}
  source: archive
  epochs: {epochs}
  global_batch: 64
  micro_batch: 8
  optimizer: {{sgd: {{learning_rate: 0.05, momentum: 0.9}}}}
  exchange: {exchange}
"""


class GroupSite(Site):
    """A site with two edges that train together."""

    def configure(self, **settings: Any) -> None:
        self._settings |= settings
        archive = self.archive_folder.as_uri()
        self.topology.write_text(TOPOLOGY.format(kafka=self._kafka, archive=archive, labels=FASHION, **self._settings))

    async def start_edges(self) -> list[Child]:
        """Both, at the same time."""
        return list(await asyncio.gather(*(self.start("run", edge) for edge in EDGES)))

    def final_weights(self, node: str) -> str:
        """The digest of the newest checkpoint's parameters."""
        newest = max(self.state(node).glob("checkpoint-*.safetensors"))
        state = checkpoint.decode(newest.read_bytes())
        assert state.position.epoch == self._settings["epochs"]
        return param_vector.digest(state.params)


def group_site(folder: Path, bootstrap: str, **settings: Any) -> GroupSite:
    wanted = {"epochs": 3, "exchange": "{mode: all_reduce}", "model": SMALL_MODEL, **settings}
    return GroupSite(folder, bootstrap, site=own_name(folder), **wanted)


def weights_by_epoch(*edges: Child) -> dict[int, set[str]]:
    """What the processes said that the weights were behind each epoch."""
    found: dict[int, set[str]] = {}
    for edge in edges:
        for line in edge.seen("exchange.epoch"):
            found.setdefault(line["epoch"], set()).add(line["weights"])
    return found


@pytest.mark.parametrize("mode", ["all_reduce", "parameter_server"])
async def test_two_edges_end_each_epoch_with_the_same_weights(embedded_broker, tmp_path, mode):
    site = group_site(tmp_path, embedded_broker.bootstrap, exchange=f"{{mode: {mode}}}")
    async with running(site):
        await site.import_fashion(600, test_limit=100)
        await site.start("run", "vault")
        edges = await site.start_edges()
        for edge in edges:
            await edge.wait_for("train.finished")
            await stopped(edge)
        found = weights_by_epoch(*edges)
        assert found.keys() == {0, 1, 2}
        assert all(len(weights) == 1 for weights in found.values())
        assert {site.final_weights(edge) for edge in EDGES} == found[2]
        assert all(line["contributions"] == 2 * line["steps"] for line in edges[0].seen("exchange.epoch"))


@pytest.mark.slow
async def test_an_edge_killed_in_mid_epoch_comes_back_to_the_same_weights(embedded_broker, tmp_path):
    site = group_site(tmp_path, embedded_broker.bootstrap, epochs=8)
    async with running(site):
        await site.import_fashion(3000, test_limit=100)
        await site.start("run", "vault")
        survivor, victim = await site.start_edges()
        await victim.wait_for("checkpoint.saved")  # the second epoch has begun
        victim.signal(signal.SIGKILL)
        assert await victim.ended() == -signal.SIGKILL

        again = await site.start("run", "pi-b")
        for edge in (survivor, again):
            await edge.wait_for("train.finished")
            await stopped(edge)

        assert (await again.wait_for("train.started"))["resumed"]
        assert again.seen("exchange.joined")
        found = weights_by_epoch(survivor, victim, again)
        assert found.keys() == set(range(8))
        assert all(len(weights) == 1 for weights in found.values()), found
        assert {site.final_weights(edge) for edge in EDGES} == found[7]
        last = survivor.seen("exchange.epoch", epoch=7)[0]
        assert last["contributions"] == 2 * last["steps"], "it takes part again"
