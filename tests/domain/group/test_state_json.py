"""A group's state as JSON: its round trip, resuming from it, and what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.group.records import Leave
from edged.domain.group.state import State
from edged.domain.group.state_json import from_json, to_json
from edged.errors import FormatError
from tests.support.histories import (
    EDGES,
    comparable,
    comparable_gradients,
    gradient,
    histories,
    outcome,
    part,
    run,
    run_blobs,
    started,
    vector,
)
from tests.support.properties import examples

ASH, BIRCH, CEDAR = EDGES


class TestTheStateAsJson:
    def test_survives_a_round_trip(self):
        state, _ = run([gradient(ASH, 0, 1), Leave(CEDAR), outcome(ASH)], started(ASH, num_steps=1))

        assert from_json(to_json(state)) == state
        assert from_json(to_json(State())) == State()

    def test_is_refused_in_the_middle_of_a_step(self):
        for piece in (gradient(ASH, 0, 1), part(ASH, 0, vector(1), at=0, of=2)):
            with pytest.raises(ValueError, match="middle of a step"):
                to_json(run([piece], started(ASH, BIRCH))[0])

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("{", "["), ('"step":1', '"step":-1'), ('"step":1', '"step":7'), ('"step":1', '"step":0'),
            ('"step":1', '"step":true'), ('"step":1', '"step":1.0'), ('"step":1', '"stop":1'),
            ('"step":1', '"step":1,"more":2'), ('"next_offset":4', '"next_offset":null'), ("[true,0,", "[1,0,"),
            ("[true,0,", "[true,-1,"), ("[true,0,", "[true,0,0,"), ("8.0", "NaN"), ("8.0", "-8.0"), ("8.0", "1e999"),
            ('"members":{"ash"', '"members":{"a/b"'), ('"kind":"begin"', '"kind":"leave"'),
            ('"kind":"tested"', '"kind":"leave"'), ('"edge":"ash","epoch":0,"kind":"tested"', '"kind":"leave"'),
            ('"num_steps":1', '"num_steps":2'), ('"end_step":1', '"end_step":2'), ('"epoch":0', '"epoch":-1'),
            ('"edge":"ash","epoch":0,"kind":"tested"', '"edge":"birch","epoch":0,"kind":"tested"'),
            ('"is_abandoned":false', '"is_abandoned":0'), ('"is_abandoned":false', '"is_abandoned":true'),
            ('"barren":0', '"barren":-1'), ('"setbacks":0', '"setbacks":false'), ('"setbacks":0', '"setback":0'),
            ('"told":{"ash":"2', '"told":{"ash":"2222'), ('"told":{"ash"', '"told":{"oak"'),
            ('"told":{', '"told":{},"x":{'),
        ],
    )  # fmt: skip
    def test_is_refused_when_altered(self, old, new):
        text = to_json(run([gradient(ASH, 0, 1), outcome(ASH)], started(ASH, num_steps=1))[0])
        assert old in text

        with pytest.raises(FormatError):
            from_json(text.replace(old, new))

    def test_is_refused_when_its_epoch_has_a_member_that_never_joined(self):
        text = to_json(started(ASH, num_steps=1))

        with pytest.raises(FormatError):
            from_json(text.replace('"members":{"ash":1.0}', '"members":{"oak":1.0}'))

    def test_is_refused_if_it_is_something_else(self):
        for text in ("", "null", "[" * 100_000, "{}"):
            with pytest.raises(FormatError):
                from_json(text)


@examples(100)
@given(histories(), st.sets(st.integers(0, 60)))
def test_resuming_between_steps_gives_the_same_states_and_actions_as_reading_on(blobs, restarts):
    whole = list(run_blobs(blobs))

    state, pieces = State(), []
    for offset, blob in enumerate(blobs):
        if offset in restarts and state.is_between_steps:
            state = from_json(to_json(state))
        ((state, actions),) = run_blobs([blob], state)
        pieces.append((state, actions))

    for (one, its), (other, others) in zip(whole, pieces, strict=True):
        assert [comparable(action) for action in its] == [comparable(action) for action in others]
        assert replace(one, gradients={}) == replace(other, gradients={})
        assert comparable_gradients(one) == comparable_gradients(other)
        assert not one.is_between_steps or to_json(one) == to_json(other)
