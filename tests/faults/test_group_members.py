"""A group of four edges as real processes: after any fault of one, all continue with the same weights, bit for bit.

All faults are injected into one group, one after the other, each in the middle of an epoch.
"""

import shutil
import signal

import pytest
import pytest_asyncio

from tests.support.brokers import Embedded, need_embedded
from tests.support.gradient_gate import gated
from tests.support.hostile import hostile
from tests.support.real_group import STEPS, Group, newest_checkpoint
from tests.support.site import SAMPLE_S, Site, eventually, following, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
EDGES = ("pi-a", "pi-b", "pi-c", "pi-d")
HALF_A_MINUTE = round(30 / SAMPLE_S)
"""Of `res.sample` lines."""

SMALL_BYTES = 10_000
"""A record above it is a gradient."""
SETTINGS = {"edges": EDGES, "epochs": 1000, "more": "exchange: {mode: all_reduce}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def group(tmp_path_factory):
    """Four edges in the middle of their training, held; at the end all are stopped, and their weights proven."""
    need_embedded()
    folder = tmp_path_factory.mktemp("members")
    with gated(Embedded) as (broker, gate):
        async with running(Site(folder, broker.bootstrap, **SETTINGS)) as site:
            group = Group(site, gate)
            await group.start()
            yield group
            await group.stop()


@pytest.mark.parametrize(
    "name", ["pi-a", pytest.param("pi-b", marks=pytest.mark.slow), "pi-c", pytest.param("pi-d", marks=pytest.mark.slow)]
)
async def test_a_member_killed_in_the_middle_of_an_epoch_returns_to_the_same_epoch(group, name):
    """The others wait for it in two steps, no more; it catches up from the log and contributes to the last steps."""
    step = await group.reach_middle()
    await group.kill(name)
    survivors = tuple(each for each in EDGES if each != name)
    await group.go_to(step + 5, len(survivors))
    back = await group.restart(name)
    await group.go_to(step + 8)

    history = group.history
    assert history.missed(name, since=step) == [step, step + 1]
    assert [history.contributors(each) for each in range(step, step + 5)] == [survivors] * 5
    assert history.contributors(step + 7) == EDGES  # its first gradient may be late: nobody waits for it
    assert back.seen("exchange.caught_up")[0]["step"] == step + 5
    await group.assert_all_continue()


async def test_a_member_paused_while_steps_close_without_it_applies_them_when_it_runs_again(group):
    """The others wait for it in two steps; running again, its gradient is late, and then it is in time again."""
    step = await group.reach_middle()
    group.edges["pi-c"].signal(signal.SIGSTOP)
    await group.go_to(step + 6, len(EDGES) - 1)  # the gradient that it is held with is in time
    group.edges["pi-c"].signal(signal.SIGCONT)
    await group.held()
    await group.go_to(step + 9)

    history = group.history
    assert history.missed("pi-c", since=step) == [step + 1, step + 2]
    assert ["pi-c" in history.contributors(each) for each in range(step, step + 6)] == [True, *[False] * 5]
    assert history.contributors(step + 8) == EDGES
    await group.assert_all_continue()


async def test_a_member_paused_for_half_a_minute_takes_part_again(group):
    """The others wait for it in two steps, then train epochs without it; it catches up when it runs again."""
    step = await group.reach_middle()
    begun = len(group.history.epochs)
    group.edges["pi-b"].signal(signal.SIGSTOP)
    group.gate.hold_from(step + 3 * STEPS)
    await following(group.edges["pi-a"], "res.sample", HALF_A_MINUTE)
    history = group.history
    await history.read_on()
    away = range(step + 1, history.state.step)  # the gradient that it is held with is in time
    group.edges["pi-b"].signal(signal.SIGCONT)
    group.gate.open()

    assert history.missed("pi-b", since=step) == [*away[:2]]
    assert {history.contributors(each) for each in away} == {("pi-a", "pi-c", "pi-d")}
    assert len(history.epochs) > begun + 1

    async def takes_part() -> bool:
        await history.read_on()
        return "pi-b" in history.contributors(history.state.step - 1)

    await eventually(takes_part, group.edges["pi-b"])
    await group.go_to(history.state.step + 2 * STEPS)
    assert not group.edges["pi-b"].seen("exchange.adopted")
    await group.assert_all_continue()


async def test_a_member_restarted_with_an_old_checkpoint_catches_up_from_the_log(group, tmp_path):
    now = await group.reach_middle()
    step = newest_checkpoint(group.site, "pi-d").position.step
    shutil.copytree(group.site.state("pi-d"), tmp_path / "old")
    await group.go_to(now + 2 * STEPS)
    await group.kill("pi-d")
    shutil.rmtree(group.site.state("pi-d"))
    shutil.copytree(tmp_path / "old", group.site.state("pi-d"))
    back = await group.restart("pi-d")

    [caught_up] = back.seen("exchange.caught_up")
    assert back.seen("train.started")[0]["step"] == step
    assert caught_up["steps"] >= 2 * STEPS
    assert not back.seen("exchange.adopted")
    await group.assert_all_continue()


async def test_a_member_restarted_with_nothing_resumes_from_the_published_checkpoint(group):
    await group.reach_middle()
    await group.kill("pi-a")
    shutil.rmtree(group.site.state("pi-a"))
    back = await group.restart("pi-a")

    [adopted] = back.seen("exchange.adopted")
    assert adopted["epoch"] >= group.history.epochs[-1].epoch
    await group.assert_all_continue()


async def test_repeated_records_count_once(group):
    """Another client repeats all but old gradients, in order and backwards: Leaves, Joins and Begins, too."""
    await group.reach_middle()
    blobs = [blob for blob in group.history.blobs[:-100] if len(blob) < SMALL_BYTES] + group.history.blobs[-100:]
    await group.append([*blobs, *reversed(blobs)])

    await group.assert_all_continue()


async def test_invalid_records_are_rejected_and_disturb_nobody(group):
    """None of them changes who is in the very next step."""
    step = await group.reach_middle()
    before = len(group.history.not_counted)
    await group.append(hostile(group.history, step))
    await group.go_to(step + 1)

    reasons = [each.reason for each in group.history.not_counted[before:]]
    assert len(reasons) == len(hostile(group.history, step))
    assert group.history.contributors(step) == EDGES
    for name in EDGES:
        await group.edges[name].wait_for("exchange.rejected")
    await group.assert_all_continue()
