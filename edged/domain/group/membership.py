"""Which members of the running epoch are absent, and why.

Absent are those that a step does not wait for. See also: `gradient_log` for the rule, `State.expected`.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edged.domain.group.state import State

LEFT, RESTARTED, SILENT = "left", "started anew", "silent"
"""Reasons: it wrote a Leave; it joined again and has sent nothing since; it missed MAX_MISSED consecutive steps."""


class Change(NamedTuple):
    """`edge` is absent from here on, for this reason; if that is empty, it is expected again."""

    edge: str
    reason: str


def absent(state: State) -> Mapping[str, str]:
    """The running epoch's absent members, each with the reason."""
    members = state.begin.members if state.begin else {}
    return {edge: _reason(state, edge) for edge in sorted(members) if not state.is_expected(edge)}


def changes(before: State, after: State) -> Iterator[Change]:
    """What changed between two states of a fold, in rising order of edges; each change once."""
    if before.members is after.members and before.begin is after.begin:
        return
    was, now = absent(before), absent(after)
    for edge in sorted(was.keys() ^ now.keys()):
        if edge in now:
            yield Change(edge, now[edge])
        elif after.begin is not None and edge in after.begin.members:
            yield Change(edge, "")


def _reason(state: State, edge: str) -> str:
    member = state.members.get(edge)
    if member is None or not member.joined:
        return LEFT
    return RESTARTED if member.missed is None else SILENT
