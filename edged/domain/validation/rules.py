"""All rules of a topology together: what keeps it from being used, and what is probably not meant.

Pure: a Topology in, findings out. A topology under test may be half-read: references may dangle, so look-ups never
assume that a name exists. See also: `topology_file.schema` for the ranges of single values.
"""

from edged.domain.topology import Topology
from edged.domain.validation import budgets, group, names, network, nodes, training, unsupported
from edged.domain.validation.finding import Finding


def problems(topology: Topology) -> list[Finding]:
    """All that keeps the topology from being used; empty when it is valid."""
    return [
        *names.problems(topology),
        *network.problems(topology),
        *nodes.problems(topology),
        *training.problems(topology),
        *group.problems(topology),
        *budgets.problems(topology),
        *unsupported.findings(topology),
    ]


def warnings(topology: Topology) -> list[Finding]:
    """What works but is probably not meant. For a topology without problems."""
    return [
        *network.warnings(topology),
        *nodes.warnings(topology),
        *training.warnings(topology),
        *group.warnings(topology),
    ]
