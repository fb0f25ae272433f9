"""The nodes that `edged node enable` has put on this machine: which, what their units give them, what still fits."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from edged.adapters.host.machine import Machine
from edged.adapters.host.name import host_name
from edged.domain.systemd.fit import misfits
from edged.domain.systemd.setup import CREDENTIALS, TOPOLOGY, node_of
from edged.domain.topology import Topology
from edged.errors import MachineUnfit, Problem
from edged.topology_file import Inspection


def misfits_here(file: Path, inspection: Inspection, node: str | None = None) -> tuple[Problem, ...]:
    """What no longer fits of all of them, or of `node` alone; of a file that the units do not read, nothing."""
    machine = Machine()
    if file.absolute() != machine.path(TOPOLOGY):
        return ()
    drop_ins = {unit: text for unit, text in machine.drop_ins().items() if node in {None, node_of(unit)}}
    return tuple(misfits(inspection.topology, inspection.credentials, drop_ins))


def nodes_here(topology: Topology) -> list[str]:
    """Those of its nodes that are enabled on this machine; where none is, the one that is called as the machine is."""
    enabled = {node_of(unit) for unit in Machine().drop_ins()}
    host = host_name().partition(".")[0]
    known = [node.name for tier in (topology.edges, topology.archive) for node in tier]
    return [name for name in known if name in enabled] or [name for name in known if name.lower() == host.lower()]


def environment_of(node: str) -> Mapping[str, str]:
    """What the node's unit would give it on this machine, but for what this process was given."""
    machine = Machine()
    given = {"NODE": node}
    if machine.path(CREDENTIALS).is_dir():
        given["CREDENTIALS_DIRECTORY"] = str(machine.path(f"{CREDENTIALS}/{node}"))
    if node in {node_of(unit) for unit in machine.drop_ins()}:
        with contextlib.suppress(MachineUnfit, OSError):
            given |= machine.environment(node)
    return given | os.environ
