"""Who of an epoch's members is not awaited, and what a record of the group's log changed about that.

What makes a member awaited is `gradient_log`'s subject.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edged.domain.group.state import State

LEFT, RESTARTED, SILENT = "left", "started anew", "silent"
"""Why: it said that it leaves; it has joined anew and sent nothing since; it missed steps in a row."""


class Change(NamedTuple):
    """`edge` is not awaited from here on, for this reason; with an empty one, it is awaited again."""

    edge: str
    reason: str


def absent(state: State) -> Mapping[str, str]:
    """The running epoch's members that are not awaited, each with the reason."""
    members = state.begin.members if state.begin else {}
    return {edge: _reason(state, edge) for edge in sorted(members) if not state.is_expected(edge)}


def changes(before: State, after: State) -> Iterator[Change]:
    """What became other between two states of a fold, in rising order of edges; each change once."""
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
