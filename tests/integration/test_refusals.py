"""Nodes that refuse to run, and say why: a second one of the same name, and one whose saved state is another job's."""

from tests.support.site import Site, running


async def test_the_same_node_runs_once(embedded_broker, tmp_path):
    async with running(Site(tmp_path, embedded_broker.bootstrap, site="twice")) as site:
        for node in ("vault", "pi-a"):
            first = await site.start("run", node)
            await first.wait_for("life.ready")
            second = await site.start("run", node)

            assert await second.ended() == 75
            [refusal] = second.seen("life.refused")
            assert str(site.state(node)) in refusal["reason"]
            assert await first.stop() == 0


async def test_a_changed_model_is_refused_for_good_and_the_checkpoints_stay(embedded_broker, tmp_path):
    async with running(Site(tmp_path, embedded_broker.bootstrap, site="changed", epochs=1), ["life.crashed"]) as site:
        await site.import_fashion(300, 100)
        await site.start("run", "vault")
        edge = await site.start("run", "pi-a")
        await edge.wait_for("train.finished")
        assert await edge.stop() == 0
        before = sorted(site.state("pi-a").iterdir())
        site.topology.write_text(site.topology.read_text().replace("filters: 8", "filters: 9"))

        edge = await site.start("run", "pi-a")

        assert await edge.ended() == 78
        [crash] = edge.seen("life.crashed")
        assert str(site.state("pi-a")) in crash["err"]
        assert "move the checkpoints away" in crash["err"]
        assert sorted(site.state("pi-a").iterdir()) == before
