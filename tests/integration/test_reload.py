"""Real nodes read their topology again at SIGHUP, and go on."""

import json
import os
import signal
import subprocess
import sys

from tests.support.site import Site, following, own_name, running, stopped
from tests.support.valid_topology import WITHOUT_KAFKA


def test_hangups_from_the_first_line_to_the_end_end_no_node(tmp_path):
    """Also in a process whose libraries have threads of their own: numpy's have from its import on."""
    (tmp_path / "topology.yaml").write_text(WITHOUT_KAFKA)
    command = [sys.executable, "-m", "edged", "run", "topology.yaml", "--node", "pi-a"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as node:
        assert node.stderr is not None
        events = []
        for line in node.stderr:
            events.append(json.loads(line)["event"])
            node.send_signal(signal.SIGHUP)
            if events[-1] == "config.reloaded" and events.count("config.reloaded") == 1:
                node.terminate()
    assert events[0] == "life.started"
    assert (events[-1], node.returncode) == ("life.stopped", 0)


async def test_nodes_take_a_reload_or_name_what_takes_a_restart(embedded_broker, tmp_path):
    async with running(Site(tmp_path, embedded_broker.bootstrap, site=own_name(tmp_path), source="live")) as site:
        await _reload(site)


async def _reload(site):
    nodes = await site.start_nodes()
    for node in nodes:
        await node.wait_for("life.ready")
    await nodes[1].wait_for("ingest.reading")  # the new device is then a second reading
    site.configure(checkpoint="1min")
    for node in nodes:
        node.signal(signal.SIGHUP)
        assert (await node.wait_for("config.reloaded"))["keys"] == ["training.checkpoint"]
    device = "  - {name: cam-04, edge: pi-a, stream: fashion, codec: raw}\n"
    with_device = site.topology.read_text().replace("edges: [", f"{device}edges: [", 1)
    site.topology.write_text(with_device)
    for node in nodes:
        node.signal(signal.SIGHUP)
        assert (await node.wait_for("config.reloaded", 2))["keys"] == ["iot[cam-04]"]
    sensor = await site.start("sensor", "cam-04", "--from", "fashion-mnist-small", "--rate", "max", "--count", "20")
    assert await sensor.ended() == 0
    vault, edge, _ = nodes
    await edge.wait_for("ingest.reading", 2)
    await vault.wait_for("archive.flushed")
    assert {place[0] for place in site.archived()} == {"cam-04"}
    site.topology.write_text(with_device.replace("epochs: 3", "epochs: 4"))
    for node in nodes:
        node.signal(signal.SIGHUP)
        assert (await node.wait_for("config.refused"))["keys"] == ["training.epochs"]
    whole = site.topology.read_text()
    site.topology.write_text("schema: 1\nsite: [\n")
    for node in nodes:
        node.signal(signal.SIGHUP)
        assert (await node.wait_for("config.refused", 2))["problems"]
    site.topology.write_text(whole)
    for node in nodes:
        await following(node, "res.sample")
        await stopped(node)
