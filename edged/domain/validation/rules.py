"""All rules of a topology: problems, which keep it from being used, and warnings about what is probably not intended.

A topology may have been read only in part: references may dangle, so look-ups never assume that a name exists.
"""

from edged.domain.topology import Topology
from edged.domain.validation import archive, budgets, group, mqtt, names, network, nodes, training, unsupported
from edged.domain.validation.finding import Finding


def problems(topology: Topology) -> list[Finding]:
    """What keeps the topology from being used; empty if it is valid."""
    return [
        *names.problems(topology),
        *network.problems(topology),
        *mqtt.problems(topology),
        *nodes.problems(topology),
        *archive.problems(topology),
        *training.problems(topology),
        *group.problems(topology),
        *budgets.problems(topology),
        *unsupported.problems(topology),
    ]


def warnings(topology: Topology) -> list[Finding]:
    """What works but is probably not intended. For a topology without problems."""
    return [
        *network.warnings(topology),
        *mqtt.warnings(topology),
        *nodes.warnings(topology),
        *archive.warnings(topology),
        *training.warnings(topology),
        *group.warnings(topology),
    ]
