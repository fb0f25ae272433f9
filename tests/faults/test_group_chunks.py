"""Groups whose gradients are of several records, as real processes: killed while some of them are in the log.

Without compression a gradient of the model here is of three chunks, which take two writes.
"""

from tests.support.brokers import Embedded, need_embedded
from tests.support.gradient_gate import gated
from tests.support.hostile import hostile
from tests.support.real_group import STEPS, Group
from tests.support.site import Site, running

EDGES = ("pi-a", "pi-b", "pi-c")
MODEL = "[flatten, dense: {units: 400, activation: relu}, dense: 10]"


def settings(mode: str, epochs: int) -> dict[str, object]:
    return {"edges": EDGES, "epochs": epochs, "model": MODEL, "more": f"exchange: {{mode: {mode}}}"}


async def test_a_member_killed_in_the_middle_of_a_gradient_adds_nothing_to_that_step(tmp_path):
    """What it had sent of the gradient stays in the log and counts for nothing; back, it sends whole ones."""
    need_embedded()
    with gated(Embedded) as (broker, gate):
        async with running(Site(tmp_path, broker.bootstrap, **settings("all_reduce", 1000))) as site:
            group = Group(site, gate)
            await group.start()
            step = await group.reach_middle()
            await group.go_to(step, part=1)
            assert set(await group.halfway()) == set(EDGES)
            await group.kill("pi-b")
            survivors = ("pi-a", "pi-c")
            await group.go_to(step + 4, len(survivors))
            await group.bring_back("pi-b")
            await group.go_to(step + 7)

            history = group.history
            assert history.missed("pi-b", since=step) == [step, step + 1]
            assert [history.contributors(each) for each in range(step, step + 4)] == [survivors] * 4
            assert history.contributors(step + 6) == EDGES
            await group.assert_all_go_on()
            await group.stop()


async def test_a_parameter_server_killed_in_the_middle_of_an_update_makes_it_once(tmp_path):
    """The second time a member dies with it; and what breaks the rules among the gradients stops nobody."""
    need_embedded()
    with gated(Embedded) as (broker, gate):
        async with running(Site(tmp_path, broker.bootstrap, **settings("parameter_server", 2))) as site:
            group = Group(site, gate)
            await group.start(held=1)
            await group.go_to(5, 1, part=1)
            assert await group.halfway() == ["vault"]
            await group.append(hostile(group.history, 6), site.loaded().gradients_topic(site.loaded().jobs[0]))
            await group.kill_vault()
            await group.start_vault()
            await group.held(1)
            await group.go_to(STEPS + 5, 1, part=1)
            await group.kill_vault()
            await group.kill("pi-b")
            await group.start_vault()
            back = await group.bring_back("pi-b", held=1)
            gate.open()
            for edge in group.edges.values():
                await edge.wait_for("train.finished")
            await group.stop()

            assert back.seen("train.started")[0]["step"] == STEPS
            assert any(child.seen("exchange.rejected") for child in site.children if "vault" in child.name)
            assert [each.step for each in group.history.steps] == list(range(2 * STEPS))
            absent = {step for step in range(2 * STEPS) if group.history.contributors(step) != EDGES}
            assert absent <= {STEPS + 6, STEPS + 7}  # with pi-b just back nobody need wait for it
