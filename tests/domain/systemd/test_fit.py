"""What is told when the topology has changed since a node was enabled."""

from dataclasses import replace
from types import MappingProxyType

from edged.domain.systemd.fit import misfits
from edged.domain.systemd.setup import setup_of
from edged.domain.topology import Archive
from tests.support.valid_topology import VALID

KEY = {"key": "kafka.security"}


def drop_ins(*nodes, credentials=MappingProxyType({})):
    return {unit: text for node in nodes for unit, text in setup_of(VALID, node, credentials).drop_ins.items()}


def told(topology, made, credentials=MappingProxyType({})):
    return [(each.message, each.suggestion) for each in misfits(topology, credentials, made)]


def test_nothing_is_told_while_all_fit():
    assert told(VALID, drop_ins("pi-a", "vault")) == []


def test_a_node_that_the_topology_has_no_longer_is_to_be_disabled():
    renamed = replace(VALID, edges=(replace(VALID.edges[0], name="pi-c"), VALID.edges[1]))
    [(message, suggestion)] = told(renamed, drop_ins("pi-a", "pi-b"))
    assert message == (
        'edged@pi-a.service and edged-infer@pi-a.service would run the node "pi-a", which the topology does not have'
    )
    assert "`edged node disable pi-a`" in suggestion


def test_a_new_credential_an_old_one_and_another_archive_take_a_new_enable():
    moved = replace(VALID, archive=(Archive("vault", "file:///mnt/edged"),))
    for each in (told(VALID, drop_ins("pi-a"), KEY), told(VALID, drop_ins("pi-a", credentials=KEY))):
        assert each == [
            (
                'this machine\'s units of "pi-a" do not fit the topology any more',
                "`edged node enable pi-a` as root mends that",
            )
        ]
    [(message, _)] = told(moved, drop_ins("vault", "pi-a"))
    assert '"vault"' in message


def test_so_does_a_companion_that_has_come_or_gone():
    [(message, _)] = told(replace(VALID, jobs=()), drop_ins("pi-a"))
    assert '"pi-a"' in message


def test_an_archive_whose_folder_is_not_known_here_is_taken_to_fit():
    assert told(replace(VALID, archive=(Archive("vault", "${ARCHIVE}"),)), drop_ins("vault")) == []
