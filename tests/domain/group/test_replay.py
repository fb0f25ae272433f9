"""A log folded again leads to the weights that its members had; what was proofs_by_name of them is proven or not."""

import io
from dataclasses import replace

import pytest

from edged.cli.replay.report import Report
from edged.domain.group import compression, records, update_log
from edged.domain.group import step as group_step
from edged.domain.group.gradient_log import MAX_DIVERGED_STEPS, fold, fold_blob
from edged.domain.group.records import Close
from edged.domain.group.replay import (
    LATE,
    Claim,
    EpochAbandoned,
    EpochBegun,
    NotCounted,
    Proof,
    Replay,
    RolledBack,
    StepApplied,
)
from edged.domain.group.state import MAX_MISSED, Begun, Closed, State
from edged.domain.nn.model import Model
from edged.domain.nn.spec import Dense, Flatten
from edged.domain.topology import Archive, Edge, Exchange, Kafka, Sampling, Sgd, Stream, Topology, Training
from edged.domain.training.learner import Learner
from tests.support.written_log import WrittenLog

TRAINING = Training(
    "tiles",
    (Flatten(), Dense(3)),
    optimizer=Sgd(0.1, momentum=0.5),
    sampling=Sampling("uniform"),
    exchange=Exchange("all_reduce"),
)
SITE = Topology(
    site="lab",
    kafka=Kafka(("localhost:9092",)),
    streams=(Stream("tiles", (8, 8, 1), "uint8", ("a", "b", "c")),),
    iot=(),
    edges=(Edge("pi-a"), Edge("pi-b"), Edge("pi-c")),
    archive=(Archive("vault", "file:///srv/edged"),),
    jobs=(TRAINING,),
)


def replay_of(log: WrittenLog, claims=(), *, state=None, group=None, topology=SITE) -> Replay:
    [training] = topology.jobs
    state = state or Learner(training, Model((8, 8, 1), training.model)).initial(log.job)
    return Replay(training, log.rules, state, group or State(), claims)


def events_of(replay: Replay, log: WrittenLog):
    events = [*replay.begin()]
    for offset in range(replay.next_offset, len(log.blobs)):
        events += replay.take(log.blobs[offset], offset)
    return [*events, *replay.end()]


def of_kind(kind, events):
    return [each for each in events if isinstance(each, kind)]


def trained(topology=SITE) -> WrittenLog:
    """Two epochs; in the second, pi-b misses a step."""
    log = WrittenLog(topology)
    log.join("pi-a", "pi-b")
    log.begin("pi-a", "pi-b", num_steps=2)
    log.step({"pi-a": 5, "pi-b": 3})
    log.step({"pi-a": 4, "pi-b": 4})
    log.test("pi-a", "pi-b")
    log.begin("pi-a", "pi-b", num_steps=2)
    log.step({"pi-a": 6}, closed_by="pi-a")
    log.step({"pi-a": 2, "pi-b": 1})
    return log


@pytest.mark.parametrize("exchange", [Exchange("all_reduce"), Exchange("all_reduce", "int8")], ids=str)
def test_the_replay_gives_the_weights_computed_by_hand_and_those_of_each_begin(exchange):
    topology = replace(SITE, jobs=(replace(TRAINING, exchange=exchange),))
    log = trained(topology)
    replay = replay_of(log, topology=topology)

    proofs = of_kind(Proof, events_of(replay, log))

    assert (replay.step, replay.weights()) == (4, log.digest())
    assert [(proof.claim.name, proof.claim.step) for proof in proofs] == [
        ("epoch 0 as pi-a began it", 0),
        ("epoch 1 as pi-a began it", 2),
    ]
    assert all(proof.holds for proof in proofs)


def test_the_replay_reports_contributions_and_missing_members():
    log = trained()

    events = events_of(replay_of(log), log)

    assert [
        (step.epoch, step.step, {each.edge: each.count for each in step.contributions}, step.missing)
        for step in of_kind(StepApplied, events)
    ] == [
        (0, 0, {"pi-a": 5, "pi-b": 3}, ()),
        (0, 1, {"pi-a": 4, "pi-b": 4}, ()),
        (1, 2, {"pi-a": 6}, ("pi-b",)),
        (1, 3, {"pi-a": 2, "pi-b": 1}, ()),
    ]
    [first, second] = of_kind(EpochBegun, events)
    assert (first.epoch, first.step, first.num_steps, first.edge) == (0, 0, 2, "pi-a")
    assert first.shares == {"pi-a": 0.5, "pi-b": 0.5}
    assert (second.tested.num_members, second.tested.num_samples) == (2, 20)


def test_a_begin_with_other_weights_than_the_logs_is_reported_and_the_replay_continues():
    log = trained()
    log.begin("pi-a", num_steps=1, weights="0" * 64)
    log.step({"pi-a": 1})
    replay = replay_of(log)

    [*right, wrong] = of_kind(Proof, events_of(replay, log))

    assert all(proof.holds for proof in right)
    assert not wrong.holds
    assert (wrong.claim.weights, wrong.claim.step) == ("0" * 64, 4)
    assert replay.weights() == log.digest()


def test_a_claim_is_checked_at_its_step_also_the_first_and_last_but_not_beyond_the_end():
    log = trained()
    start = replay_of(log).weights()
    claims = [Claim("end", 4, log.digest()), Claim("start", 0, start), Claim("lie", 2, start), Claim("far", 9, start)]

    proofs = of_kind(Proof, events_of(replay_of(log, claims), log))

    proofs_by_name = {proof.claim.name: proof for proof in proofs if not proof.claim.name.startswith("epoch")}
    assert {name: proof.holds for name, proof in proofs_by_name.items()} == {
        "start": True, "lie": False, "end": True, "far": False,
    }  # fmt: skip
    assert proofs_by_name["far"].weights == "" != proofs_by_name["lie"].weights


def test_a_replay_from_a_checkpoint_ends_like_one_from_the_beginning():
    log = WrittenLog(SITE)
    log.join("pi-a", "pi-b")
    log.begin("pi-a", "pi-b", num_steps=4)
    log.step({"pi-a": 5, "pi-b": 3})
    log.step({"pi-a": 5, "pi-b": 3})
    state, group = log.train_state(), log.state
    log.step({"pi-a": 5, "pi-b": 3})
    log.step({"pi-a": 5, "pi-b": 3})
    replay = replay_of(log, state=state, group=group)

    events = events_of(replay, log)

    assert [step.step for step in of_kind(StepApplied, events)] == [2, 3]
    assert replay.weights() == log.digest()


def test_what_does_not_count_is_reported_with_its_reason():
    log = WrittenLog(SITE)
    log.join("pi-a", "pi-b")
    log.begin("pi-a", "pi-b", num_steps=2)
    log.step({"pi-a": 5}, closed_by="pi-a")
    parts, _ = log.gradient("pi-b", 3, step=0)
    log.add(*parts)
    log.add_blob(b"garbage")

    [late, garbage] = of_kind(NotCounted, events_of(replay_of(log), log))

    assert (late.edge, late.reason, late.offset) == ("pi-b", LATE, len(log.blobs) - 2)
    assert (garbage.edge, garbage.offset) == ("", len(log.blobs) - 1)


def test_abandoned_epochs_and_rollbacks_are_reported_and_repeated():
    log = trained()
    good = log.digest()
    log.begin("pi-a", num_steps=9)
    log.step({"pi-a": 3})
    for _ in range(MAX_DIVERGED_STEPS):
        [part], _ = log.gradient("pi-a", 0)
        log.add(replace(part, is_diverged=True))
    log.join("pi-c")
    for _ in range(MAX_MISSED):
        log.add(Close(log.state.step, "pi-c"))
    replay = replay_of(log)

    events = events_of(replay, log)

    assert of_kind(RolledBack, events) == [RolledBack(step=8, restored_step=4, continues=True)]
    assert of_kind(EpochAbandoned, events) == [EpochAbandoned(2, steps_left=3)]
    assert replay.weights() == good
    text = io.StringIO()
    report = Report(text, with_steps=True)
    report.take(events)
    report.end(replay)
    assert "step 8: training diverged; back to the weights of step 4, on with half the learning rate" in text.getvalue()
    assert "step 9: nobody; missing pi-a" in text.getvalue()
    assert "abandoned with 3 steps left" in text.getvalue()


def test_offsets_without_a_record_are_passed():
    """As markers of transactions leave them."""
    log = trained()
    whole, with_holes = replay_of(log), replay_of(log)

    for offset, blob in enumerate(log.blobs):
        events, kinds = [*whole.take(blob, offset)], [type(each) for each in with_holes.take(blob, 3 * offset + 2)]
        assert kinds == [type(each) for each in events]

    assert with_holes.next_offset == 3 * len(log.blobs)
    assert with_holes.weights() == whole.weights()


def test_the_rules_are_those_of_the_topology():
    job = SITE.resolve(TRAINING)
    rules = group_step.rules(job, 195)

    assert (rules.edges, rules.job, rules.num_parameters, rules.server) == (
        frozenset({"pi-a", "pi-b", "pi-c"}), job.digest, 195, "",
    )  # fmt: skip
    served = replace(TRAINING, exchange=Exchange("parameter_server"))
    assert group_step.rules(SITE.resolve(served), 195).server == "vault"


def test_the_log_of_a_parameter_server_gives_the_same_weights():
    """It has the Begins and, instead of gradients, the server's updates."""
    served = replace(SITE, jobs=(replace(TRAINING, exchange=Exchange("parameter_server")),))
    gradients, state, blobs = trained(), State(), []
    for offset, blob in enumerate(gradients.blobs):
        state, actions = fold_blob(fold, gradients.rules, state, blob, offset)
        for action in actions:
            if isinstance(action, Begun):
                blobs.append(records.encode(action.begin))
            if isinstance(action, Closed) and action.mean is not None:
                chunks = compression.split(compression.compress(action.mean, "none", top_k=1.0))
                blobs += map(records.encode, update_log.updates(action, state, chunks))
    log = WrittenLog(served)
    log.blobs = blobs
    replay = replay_of(log, topology=served)

    events = events_of(replay, log)

    assert replay.weights() == gradients.digest()
    assert [step.missing for step in of_kind(StepApplied, events)] == [(), (), ("pi-b",), ()]
    assert all(proof.holds for proof in of_kind(Proof, events))
