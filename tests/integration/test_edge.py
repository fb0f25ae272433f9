"""An edge as a real process: killed, stopped, cut off from its broker, and fed by a foreign client."""

import hashlib
import signal

import pytest

from edged.cli.demo.children import Child
from edged.domain import checkpoint
from tests.integration.site import Site, running

pytestmark = pytest.mark.integration


def final_weights(site: Site, node: str = "pi-a") -> str:
    """A digest of the newest checkpoint's parameters and velocity."""
    newest = max(site.state(node).glob("checkpoint-*.safetensors"))
    state = checkpoint.decode(newest.read_bytes())
    digest = hashlib.sha256()
    for name, array in sorted({**state.params, **state.velocity}.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


async def train_to_the_end(site: Site) -> Child:
    edge = await site.start("run", "pi-a")
    await edge.wait_for("train.finished")
    assert await edge.stop() == 0
    return edge


async def test_an_edge_killed_mid_epoch_ends_with_the_weights_of_an_uninterrupted_run(embedded_broker, tmp_path):
    """kill -9 in the second epoch, restart: the same final weights, bit for bit."""
    async with running(Site(tmp_path, embedded_broker.bootstrap, epochs=3, site="killed")) as site:
        await site.import_fashion(2000)
        await site.start("run", "vault")
        await train_to_the_end(site)
        undisturbed = final_weights(site)
        for path in site.state("pi-a").iterdir():
            path.unlink()

        edge = await site.start("run", "pi-a")
        await edge.wait_for("train.epoch", epoch=1)
        edge.signal(signal.SIGKILL)
        await edge.ended()
        await train_to_the_end(site)

        assert final_weights(site) == undisturbed
