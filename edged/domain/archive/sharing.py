"""How the archive nodes of a site divide their work: each partition is one node's, and few move when nodes do."""

from collections.abc import Callable, Collection, Mapping

Partition = tuple[str, int]
"""Topic and number."""

_Takers = Mapping[Partition, Collection[str]]
"""The nodes that can take each partition."""


def share(
    topics: Mapping[str, Collection[str]],
    num_partitions: Mapping[str, int],
    held: Mapping[str, Collection[Partition]],
) -> dict[str, list[Partition]]:
    """The partitions of each node. `topics`: which each node takes part in; `held`: what each had before, if any.

    Of a topic's partitions, and of the topics with a single one, no node has two more than another that takes part in
    them. What a node had it keeps, unless it is one too many; of several who had it, the first by name.
    """
    owners: dict[Partition, str] = {}
    for node in sorted(held, reverse=True):
        owners |= dict.fromkeys(held[node], node)
    shared: dict[str, list[Partition]] = {node: [] for node in sorted(topics)}
    for takers in _kinds(topics, num_partitions):
        before = {node: len(shared[node]) for node in shared}
        for node, own in _share_kind(takers, owners, before).items():
            shared[node] += own
    return shared


def _kinds(topics: Mapping[str, Collection[str]], num_partitions: Mapping[str, int]) -> list[_Takers]:
    """What is to be even by itself, so that each node has some of each: the topics with a single partition are one."""
    single: dict[Partition, Collection[str]] = {}
    kinds: list[_Takers] = [single]
    for topic, number in sorted(num_partitions.items()):
        if nodes := [node for node in sorted(topics) if topic in topics[node]]:
            takers = {(topic, partition): nodes for partition in range(number)}
            if number == 1:
                single |= takers
            else:
                kinds.append(takers)
    return kinds


def _share_kind(
    takers: _Takers, owners: Mapping[Partition, str], before: Mapping[str, int]
) -> dict[str, list[Partition]]:
    """The nodes' partitions of one kind. `before`: how many they have of others, for what cannot be even in this."""
    own: dict[str, list[Partition]] = {node: [] for node in before}

    def load(node: str) -> tuple[int, int, str]:
        return len(own[node]), before[node], node

    kept = {each: owners[each] for each in takers if owners.get(each) in takers[each]}
    for each in sorted(takers, key=lambda each: (each not in kept, each)):
        own[kept.get(each) or min(takers[each], key=load)].append(each)
    while move := _move(own, takers, load):
        each, giver, taker = move
        own[giver].remove(each)
        own[taker].append(each)
    return own


def _move(
    own: Mapping[str, list[Partition]], takers: _Takers, load: Callable[[str], tuple[int, int, str]]
) -> tuple[Partition, str, str] | None:
    """A partition, the node that has too many, and one that has fewer by two at least; None when all are even."""
    for giver in sorted(own, key=load, reverse=True):
        for each in reversed(own[giver]):
            taker = min(takers[each], key=load)
            if load(taker)[0] <= load(giver)[0] - 2:
                return each, giver, taker
    return None
