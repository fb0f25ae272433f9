"""Which archive node has which partitions, as a value."""

from collections import Counter
from collections.abc import Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive.sharing import Partition, share

SOURCES = {"s0": 1, "s1": 1, "s2": 1, "s3": 1}
SITE = {**SOURCES, "requests": 2}
NODES = ("north", "south", "west")


def among(
    *nodes: str, of: Mapping[str, int] = SITE, had: Mapping[str, Collection[Partition]] = {}
) -> dict[str, list[Partition]]:
    return share(dict.fromkeys(nodes, of), of, had)


def kinds(own: Collection[Partition]) -> Counter[str]:
    return Counter("requests" if topic == "requests" else "source" for topic, _ in own)


def test_a_lone_node_has_everything() -> None:
    assert len(among("north")["north"]) == 6


def test_each_node_has_some_of_each_kind() -> None:
    assert [kinds(own) for own in among("north", "south").values()] == [{"source": 2, "requests": 1}] * 2


def test_a_node_that_joins_gets_its_part_of_each_kind_and_nothing_else_moves() -> None:
    alone = among("north")
    both = among("north", "south", had=alone)
    assert set(both["north"]) < set(alone["north"])
    assert kinds(both["south"]) == {"source": 2, "requests": 1}


def test_of_a_node_that_leaves_the_others_take_what_it_had_and_keep_theirs() -> None:
    site = {**SITE, "s4": 1, "s5": 1, "requests": 3}
    before = among(*NODES, of=site)
    after = among("south", "west", of=site, had=before)
    assert set(before["south"]) <= set(after["south"])
    assert set(before["west"]) <= set(after["west"])
    assert sum(map(len, after.values())) == 9


def test_what_only_one_node_knows_is_that_nodes() -> None:
    shared = share({"north": ["old"], "south": ["old", "new"]}, {"old": 1, "new": 1}, {"south": [("old", 0)]})
    assert shared == {"north": [("old", 0)], "south": [("new", 0)]}


def test_a_topic_that_is_absent_or_nobodys_is_not_shared() -> None:
    assert share({"north": ["to come"]}, {"of others": 1}, {}) == {"north": []}


def test_what_cannot_be_even_goes_to_who_has_less_of_the_rest() -> None:
    shared = among("north", "south", of={"a": 1, "requests": 3})
    assert [len(own) for own in shared.values()] == [2, 2]


def test_of_two_who_had_a_partition_the_first_by_name_has_it() -> None:
    had = {"south": [("a", 0)], "north": [("a", 0)]}
    assert among("north", "south", of={"a": 1}, had=had) == {"north": [("a", 0)], "south": []}


_HELD = st.dictionaries(st.sampled_from(NODES), st.lists(st.tuples(st.sampled_from("abcd"), st.just(0)), max_size=4))


@given(_HELD.filter(bool), st.sets(st.sampled_from("abcd")))
def test_every_partition_is_one_nodes_and_all_have_about_as_many(
    held: Mapping[str, Collection[Partition]], topics: Collection[str]
) -> None:
    of = dict.fromkeys(topics, 1)
    shared = among(*held, of=of, had=held)
    assert sorted(each for own in shared.values() for each in own) == sorted((topic, 0) for topic in topics)
    assert max(map(len, shared.values())) - min(map(len, shared.values())) <= 1
    assert {node: set(own) for node, own in among(*held, of=of, had=shared).items()} == {
        node: set(own) for node, own in shared.items()
    }
