"""The demo's report about a group of edges: rows of its table, and sentences."""

from edged.cli.demo.group import Contribution, Group
from edged.domain.counted import counted

_SHOWN = 16
"""Hexadecimal digits of a hash in the text."""


def rows(group: Group) -> list[tuple[str, str]]:
    """Title and value of each row."""
    return [
        ("steps together", f"{group.steps:,}, {group.steps_without_somebody:,} of them without somebody"),
        *((f"  part of {edge}", _contribution(each)) for edge, each in group.edges.items()),
    ]


def sentences(group: Group) -> list[str]:
    """About the weights, and about the edge that was killed."""
    return [*_outage(group), _weights(group)]


def _contribution(each: Contribution) -> str:
    missed = f", {counted(each.missed, 'step')} missed" if each.missed else ""
    return f"{counted(each.samples, 'sample')} ({each.share:.0%}), {each.bytes_per_step / 1024:,.1f} KiB a step{missed}"


def _outage(group: Group) -> list[str]:
    if group.outage is None:
        return []
    outage = group.outage
    back = "and took part again" if group.took_part_again else "and came back"
    over = "" if group.took_part_again else ", but all was over before it took part again"
    text = (
        f"{outage.edge} was killed in epoch {outage.epoch + 1}, in step {outage.step}, {back}"
        f" {outage.away_s:.1f} s later, after {counted(outage.caught_up, 'step')} caught up on from the log{over};"
        f" the others went on, {counted(group.edges[outage.edge].missed, 'step')} without it."
    )
    return [text]


def _weights(group: Group) -> str:
    if group.is_identical:
        return (
            f"The {counted(len(group.edges), 'edge')} all ended with the same weights, bit for bit:"
            f" {group.weights[:_SHOWN]}. Their log, folded again, leads to them, and proves"
            f" {counted(group.proofs, 'hash')}."
        )
    ends = ", ".join(f"{edge} {each.weights[:_SHOWN]}" for edge, each in group.edges.items())
    return (
        f"The edges did NOT end with the same weights: {ends}; the log leads to {group.weights[:_SHOWN]},"
        f" and {group.proofs_failed} of {counted(group.proofs, 'hash')} differ."
    )
