"""A group's state between two steps as JSON, with strict decoding."""

import json
import math
from dataclasses import astuple
from typing import Any, TypeVar

from edged.domain.group import records
from edged.domain.group.records import Begin, Record, Tested
from edged.domain.group.state import Member, State
from edged.errors import FormatError


def to_json(state: State) -> str:
    """The state between two steps as JSON; equal states give equal texts. Inverse: `from_json`.

    Raises ValueError in the middle of a step.
    """
    if not state.is_between_steps:
        raise ValueError("in the middle of a step the state holds more than its JSON can")
    return json.dumps(
        {
            "step": state.step,
            "end_step": state.end_step,
            "next_offset": state.next_offset,
            "begin": state.begin and records.to_values(state.begin),
            "is_abandoned": state.is_abandoned,
            "barren": state.diverged_steps,
            "setbacks": state.rollbacks,
            "members": {edge: astuple(member) for edge, member in state.members.items()},
            "tested": [records.to_values(state.tested[edge]) for edge in sorted(state.tested)],
            "told": dict(state.weights_by_edge),
        },
        sort_keys=True,
        separators=(",", ":"),
    )


def from_json(text: str) -> State:
    """The state that `to_json` wrote. Raises FormatError for anything else."""
    try:
        values = json.loads(text)
        state = _state(values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError("the state of the log's fold is malformed") from error
    for edge in state.members:
        records.check_name(edge)
    for weights in state.weights_by_edge.values():
        records.check_digest(weights)
    if (
        not state.weights_by_edge.keys() | (state.begin.members.keys() if state.begin else set())
        <= state.members.keys()
    ):
        raise FormatError("the state has weights or a share of an edge that never joined")
    if values.keys() != _KEYS or not all(type(values[name]) is int and 0 <= values[name] < 1 << 62 for name in _SIZES):
        raise FormatError("the state of the log's fold has other fields or sizes")
    if not (0 <= state.epoch_first_step <= state.step <= state.end_step and (state.begin or not state.end_step)):
        raise FormatError("the state's step is not one of its epoch")
    if type(state.is_abandoned) is not bool or (state.is_abandoned and state.step == state.end_step):
        raise FormatError("the state's epoch is neither abandoned nor not")
    if state.tested and (state.begin is None or state.is_open or not state.tested.keys() <= state.begin.members.keys()):
        raise FormatError("the state's tests are not of its epoch")
    return state


_SIZES = ("step", "end_step", "next_offset", "barren", "setbacks")
_KEYS = {*_SIZES, "begin", "is_abandoned", "members", "tested", "told"}


def _state(values: Any) -> State:
    begin = None if values["begin"] is None else records.from_values(values["begin"])
    tested = [records.from_values(each) for each in values["tested"]]
    return State(
        values["step"],
        values["end_step"],
        values["next_offset"],
        begin if begin is None else _of(Begin, begin),
        values["is_abandoned"],
        values["barren"],
        values["setbacks"],
        {edge: _member(*row) for edge, row in values["members"].items()},
        {each.edge: each for each in (_of(Tested, each) for each in tested)},
        dict(values["told"]),
    )


R = TypeVar("R", Begin, Tested)


def _of(kind: type[R], record: Record) -> R:
    if not isinstance(record, kind):
        raise FormatError(f"the state's {kind.__name__} is something else")
    return record


def _member(joined: Any, missed: Any, samples_per_s: Any, last_step: Any) -> Member:
    is_missed_sane = missed is None or (type(missed) is int and missed >= 0)
    is_speed_sane = type(samples_per_s) is float and math.isfinite(samples_per_s) and samples_per_s >= 0
    if not (type(joined) is bool and is_missed_sane and is_speed_sane and type(last_step) is int and last_step >= -1):
        raise FormatError("the state's member is malformed")
    return Member(joined, missed, samples_per_s, last_step)
