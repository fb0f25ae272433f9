"""Whether what `edged node enable` made still is what the topology needs: the file may have changed since."""

from collections.abc import Iterator, Mapping
from itertools import groupby

from edged.domain.systemd.setup import is_unknown, node_of, setup_of
from edged.domain.topology import Topology
from edged.errors import Problem


def misfits(topology: Topology, credentials: Mapping[str, str], drop_ins: Mapping[str, str]) -> Iterator[Problem]:
    """What no longer fits, of the drop-ins that are on a machine: their texts by their units.

    `credentials`: as of `setup_of`. What cannot be told without the node's variables is
    taken to fit.
    """
    for node, of_node in groupby(sorted(drop_ins, key=node_of), key=node_of):
        units = list(of_node)
        tier = topology.tier_of(node)
        if tier not in {"edge", "archive"}:
            yield Problem(
                "",
                f'{" and ".join(units)} would run the node "{node}", which the topology does not have',
                f"`edged node disable {node}` as root takes that off this machine",
            )
        elif tier == "archive" and is_unknown(topology.archive[0].url):
            continue
        elif {unit: drop_ins[unit] for unit in units} != setup_of(topology, node, credentials).drop_ins:
            yield Problem(
                "",
                f'this machine\'s units of "{node}" do not fit the topology any more',
                f"`edged node enable {node}` as root mends that",
            )
