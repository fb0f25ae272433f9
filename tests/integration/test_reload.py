"""Real nodes read their topology again at SIGHUP, and go on."""

import signal

from tests.support.site import Site, following, own_name, running, stopped


async def test_nodes_take_a_reload_or_name_what_takes_a_restart(embedded_broker, tmp_path):
    async with running(Site(tmp_path, embedded_broker.bootstrap, site=own_name(tmp_path), source="live")) as site:
        await _reload(site)


async def _reload(site):
    nodes = await site.start_nodes()
    for node in nodes:
        await node.wait_for("life.ready")
    site.configure(checkpoint="1min")
    for node in nodes:
        node.signal(signal.SIGHUP)
        assert (await node.wait_for("config.reloaded"))["keys"] == ["training.checkpoint"]
    site.configure(checkpoint="2min", epochs=4)
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
