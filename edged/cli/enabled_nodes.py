"""The nodes that `edged node enable` has put on this machine, beside the topology as it is now."""

from pathlib import Path

from edged.adapters.host.machine import Machine
from edged.domain.systemd.fit import misfits
from edged.domain.systemd.setup import TOPOLOGY, node_of
from edged.errors import Problem
from edged.topology_file import Inspection


def misfits_here(file: Path, inspection: Inspection, node: str | None = None) -> tuple[Problem, ...]:
    """What no longer fits of all of them, or of `node` alone; of a file that the units do not read, nothing."""
    machine = Machine()
    if file.absolute() != machine.path(TOPOLOGY):
        return ()
    drop_ins = {unit: text for unit, text in machine.drop_ins().items() if node in {None, node_of(unit)}}
    return tuple(misfits(inspection.topology, inspection.credentials, drop_ins))
