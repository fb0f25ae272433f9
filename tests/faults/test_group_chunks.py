"""Groups whose gradients are of several records, as real processes: killed while some of them are in the log.

Without compression a gradient of the model here is of three chunks, which take two writes.
"""

import pytest

from tests.brokers import Embedded, need_embedded
from tests.faults.group import Group
from tests.integration.site import Site, running
from tests.proxy import GradientGate, gated

pytestmark = pytest.mark.integration
EDGES = ("pi-a", "pi-b", "pi-c")
MODEL = "[flatten, dense: {units: 400, activation: relu}, dense: 10]"
WRITES = 2


def settings(mode: str, epochs: int) -> dict[str, object]:
    return {"edges": EDGES, "epochs": epochs, "model": MODEL, "more": f"exchange: {{mode: {mode}}}"}


async def test_a_member_killed_in_the_middle_of_a_gradient_adds_nothing_to_that_step(tmp_path):
    """What it had sent of the gradient stays in the log and counts for nothing; back, it sends whole ones."""
    need_embedded()
    with gated(Embedded, b".train.", GradientGate) as (broker, gate):
        async with running(Site(tmp_path, broker.bootstrap, **settings("all_reduce", 1000))) as site:
            group = Group(site, gate, writes=WRITES)
            await group.start()
            step = await group.reach_middle()
            gate.let_pass(1)
            await group.held()
            [name] = await group.halfway()
            await group.kill(name)
            survivors = tuple(each for each in EDGES if each != name)
            await group.make_steps(4, len(survivors))
            await group.bring_back(name)
            await group.make_steps(3)
            await group.history.read_on()

            history = group.history
            assert history.missed(name, since=step) == [step, step + 1]
            assert [history.contributors(each) for each in range(step, step + 4)] == [survivors] * 4
            assert history.contributors(step + 6) == EDGES
            await group.assert_all_go_on()
            await group.stop()


async def test_a_parameter_server_killed_in_the_middle_of_an_update_makes_it_once(tmp_path):
    """Killed with half an update in the log, and again in mid-epoch with the gradients' log before it."""
    need_embedded()
    with gated(Embedded, b".train.", GradientGate) as (broker, gate):
        async with running(Site(tmp_path, broker.bootstrap, **settings("parameter_server", 3))) as site:
            group = Group(site, gate, writes=WRITES)
            await group.start(held=1)
            for _ in range(2):
                gate.let_pass(5 * WRITES + 1)
                await group.held(1)
                assert await group.halfway() == ["vault"]
                await group.kill_vault()
                await group.start_vault()
                await group.held(1)
            gate.open()
            for edge in group.edges.values():
                await edge.wait_for("train.finished")
            await group.stop()
            assert len(group.history.steps) == group.history.epochs[-1].step + group.history.epochs[-1].num_steps
            assert [each.epoch for each in group.history.epochs] == [0, 1, 2]
