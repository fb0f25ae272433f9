"""Records of training groups for tests: constructors with defaults, payloads of four numbers, arbitrary histories."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from edged.domain.group.gradient_log import fold, fold_blob
from edged.domain.group.records import Begin, Close, Join, Leave, Part, Record, Tested, decode, encode
from edged.domain.group.state import Action, Closed, Rules, State, Vector
from edged.errors import FormatError

JOB = "1" * 64
HASH = "2" * 64
WRONG = "3" * 64
"""The digests of the group's weights, and of others."""

NUM_PARAMETERS = 4
EDGES = ("ash", "birch", "cedar")
SERVER = "hub"


def decode_plain(payload: bytes) -> Vector:
    """Uncompressed float32."""
    if len(payload) % 4:
        raise FormatError("not a row of float32")
    return np.frombuffer(payload, np.float32)


RULES = Rules(frozenset(EDGES), JOB, NUM_PARAMETERS, decode_plain, server=SERVER)


def vector(*values: float) -> bytes:
    return np.resize(np.array(values, np.float32), NUM_PARAMETERS).tobytes()


def join(edge: str, job: str = JOB, *, step: int = 0, weights: str = HASH) -> Join:
    return Join(edge, job, step, weights)


def begin(*edges: str, epoch: int = 0, num_steps: int = 2, by: str = "", weights: str = HASH) -> Begin:
    return Begin(epoch, dict.fromkeys(edges, 1 / len(edges)), {"s": 10}, num_steps, weights, by or edges[0])


def part(edge: str, step: int, payload: bytes, *, at: int = 0, of: int = 1, attempt: int = 0, count: int = 1) -> Part:
    """Piece `at` of `of` of a gradient with `payload`."""
    size = -(-len(payload) // of)
    chunk = payload[at * size : (at + 1) * size] if count else b""
    return Part(edge, step, f"{attempt:08x}", at, of, count, float(count), count, 8.0, chunk)


def gradient(edge: str, step: int, *values: float, count: int = 1) -> Part:
    return part(edge, step, vector(*values) if count else b"", count=count)


def diverged(edge: str, step: int) -> Part:
    return replace(gradient(edge, step, count=0), is_diverged=True)


def outcome(edge: str, epoch: int = 0, num_samples: int = 10, *, weights: str = HASH) -> Tested:
    return Tested(edge, epoch, num_samples, num_samples // 2, 0.5 * num_samples, weights)


def started(*edges: str, num_steps: int = 2) -> State:
    """The state of a group of `edges` at the first step of its first epoch."""
    state, _ = run([*(join(edge) for edge in edges), begin(*edges, num_steps=num_steps)])
    return state


def run(records: Sequence[Any], state: State | None = None) -> tuple[State, list[Any]]:
    """The state and the actions after `records`, which are encoded and decoded first."""
    state = state or State()
    actions: list[Action] = []
    for record in records:
        state, made = fold(RULES, state, decode(encode(record)), state.next_offset)
        actions += made
    return state, actions


def run_blobs(blobs: list[bytes], state: State | None = None) -> Iterator[tuple[State, tuple[Action, ...]]]:
    """The state after each of `blobs`, and its actions."""
    state = state or State()
    for blob in blobs:
        state, actions = fold_blob(fold, RULES, state, blob, state.next_offset)
        yield state, actions


def comparable(action: Action) -> object:
    """The action as a value that can be compared, its mean bit for bit."""
    if isinstance(action, Closed):
        mean = None if action.mean is None else action.mean.tobytes()
        return (action.step, mean, action.contributions, action.missing)
    return action


def comparable_gradients(state: State) -> dict[str, object]:
    """The complete gradients of the current step as values that can be compared, bit for bit."""
    return {
        edge: (gradient.contribution, None if gradient.vector is None else gradient.vector.tobytes())
        for edge, gradient in state.gradients.items()
    }


_KINDS = ("whole", "whole", "whole", "whole", "piece", "piece", "piece", "begin", "begin", "begin", "close", "close",
          "close", "empty", "empty", "empty", "diverged", "diverged", "diverged", "result", "result", "join", "leave",
          "bad", "again", "garbled")  # fmt: skip
_EDGES = (*EDGES, *EDGES, *EDGES, *EDGES, SERVER, "stranger")
_DELTAS = (0, 0, 0, 0, 0, -1, -1, -2, 1)
_BAD = (vector(np.nan), vector(1e5), b"abc", vector(1) * 2)


@st.composite
def histories(draw: st.DrawFn) -> list[bytes]:
    """Arbitrary contents of a group's log: mostly valid records in a plausible order, mixed with all others.

    Gradients are complete and in parts, late, early, repeated, in new attempts and wrong; members join and leave;
    several write Close and Begin; records are repeated, garbled and by strangers. Steps and epochs are near the current
    ones, so that most histories have some.
    """
    blobs = [encode(join(edge)) for edge in EDGES[: draw(st.integers(1, 3))]]
    *_, (state, _) = run_blobs(blobs)
    dice = draw(st.binary(min_size=40, max_size=200))
    for throw in zip(*[iter(dice)] * 4, strict=False):
        kind, edge, delta = (side[n % len(side)] for side, n in zip((_KINDS, _EDGES, _DELTAS), throw, strict=False))
        number = throw[3]
        if kind == "again":
            blob = blobs[-1 - number % len(blobs)]
        elif kind == "garbled":
            blob = blobs[-1].replace(b"edge", b"Edge", 1)[: 600 - number]
        else:
            blob = encode(_record(state, kind, edge, delta, number))
        blobs.append(blob)
        ((state, _),) = run_blobs([blob], state)
    return blobs


def _record(state: State, kind: str, edge: str, delta: int, number: int) -> Record:  # noqa: PLR0911 - a table
    step = max(state.step + delta, 0)
    weights = WRONG if number // 8 % 8 == 0 else HASH
    epoch = max((state.begin.epoch if state.begin else -1) + (not state.is_open) + delta, 0)
    match kind:
        case "whole" if state.is_open:
            attempt, count = number % 3, (1, 2, 5, 0)[number % 4]
            whole = gradient(edge, step, *_values(edge, step, attempt), count=count)
            return replace(whole, attempt=f"{attempt:08x}")
        case "piece" if state.is_open:
            attempt = 3 + number // 2 % 2
            payload = vector(*_values(edge, step, attempt))
            return part(edge, step, payload, at=number % 2, of=2, attempt=attempt, count=attempt)
        case "bad":
            return part(edge, step, _BAD[number % 4], attempt=9)
        case "close":
            return Close(step, edge)
        case "diverged" if state.is_open:
            joined = [each for each in state.expected if each not in state.gradients]
            return diverged(joined[0] if joined else edge, state.step)
        case "empty" if state.is_open and state.begin is not None:
            outside = next((each for each in EDGES if each not in state.begin.members), edge)
            return Close(state.step, outside) if outside in state.members else join(outside)
        case "result":
            return outcome(edge, max(epoch - (not state.is_open), 0), number, weights=weights)
        case "join":
            return join(edge, HASH if number % 4 == 0 else JOB, step=step, weights=weights)
        case "leave":
            return Leave(edge)
        case _:
            joined = sorted(edge for edge, member in state.members.items() if member.joined)
            members = EDGES if number % 8 == 0 else joined[number % 2 :] or [edge]
            begun = begin(*members, epoch=epoch, num_steps=1 + number % 4, by=edge, weights=weights)
            return replace(begun, format=3, backend="compiled/1") if number // 4 % 2 else begun


def _values(edge: str, step: int, attempt: int) -> tuple[float, ...]:
    """Different for each gradient, so that a mean shows its sources."""
    return (1.1 * EDGES.index(edge) if edge in EDGES else 7.0, step / 3, float(attempt), -0.7)
