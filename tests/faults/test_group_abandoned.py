"""A group of real processes whose members all die in the middle of an epoch, after another edge has joined."""

import pytest

from tests.support.brokers import Embedded, need_embedded
from tests.support.gradient_gate import gated
from tests.support.real_group import MIDDLE, Group
from tests.support.site import Site, running

SETTINGS = {"edges": ("pi-a", "pi-b", "pi-c"), "epochs": 1000, "timing": {"first_deadline_s": 12.0}}


@pytest.mark.parametrize("mode", [pytest.param("all_reduce", marks=pytest.mark.slow), "parameter_server"])
async def test_an_edge_that_joined_since_begins_the_next_epoch_and_restarted_members_follow(tmp_path, mode):
    need_embedded()
    with gated(Embedded) as (broker, gate):
        more = f"exchange: {{mode: {mode}}}"
        async with running(Site(tmp_path, broker.bootstrap, **SETTINGS, more=more)) as site:
            group = Group(site, gate)
            group.names = ("pi-a", "pi-b")
            held = 2 if mode == "all_reduce" else 1
            await group.start(held)
            await group.go_to(MIDDLE, held)
            joined = group.edges["pi-c"] = await site.start("run", "pi-c")
            await joined.wait_for("exchange.joined")
            for name in group.names:
                await group.kill(name)
            gate.open()

            abandoned = await joined.wait_for("exchange.abandoned")
            begun = await joined.wait_for("exchange.begun", epoch=1)
            assert (abandoned["epoch"], begun["step"], begun["shares"]) == (0, abandoned["step"], {"pi-c": 1.0})

            for name in group.names:
                group.edges[name] = await site.start("run", name)
            group.names = (*group.names, "pi-c")
            await joined.until(lambda lines: any(len(line.get("shares", ())) == 3 for line in lines))
            await group.stop()
