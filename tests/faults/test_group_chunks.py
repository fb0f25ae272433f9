"""Groups whose gradients take several records, as real processes: killed while some of these are in the log.

Without compression a gradient of this model has three chunks, which take two writes.
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
    """The parts that it had sent stay in the log without effect; restarted, it sends complete gradients."""
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
            await group.restart("pi-b")
            await group.go_to(step + 7)

            history = group.history
            assert history.missed("pi-b", since=step) == [step, step + 1]
            assert [history.contributors(each) for each in range(step, step + 4)] == [survivors] * 4
            assert history.contributors(step + 6) == EDGES
            await group.assert_all_continue()
            await group.stop()


async def test_an_update_of_a_server_killed_in_the_middle_of_it_is_applied_once(tmp_path):
    """The second time a member dies with it; and invalid records among the gradients stop nobody."""
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
            back = await group.restart("pi-b", held=1)
            gate.open()
            for edge in group.edges.values():
                await edge.wait_for("train.finished")
            await group.stop()

            assert back.seen("train.started")[0]["step"] == STEPS
            assert any(child.seen("exchange.rejected") for child in site.children if "vault" in child.name)
            assert [each.step for each in group.history.steps] == list(range(2 * STEPS))
            absent = {step for step in range(2 * STEPS) if group.history.contributors(step) != EDGES}
            assert absent <= {STEPS + 6, STEPS + 7}  # the others need not wait for pi-b just after its restart
