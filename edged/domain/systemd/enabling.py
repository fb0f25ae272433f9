"""How a node comes to run on a machine, and how that is undone: which actions, from what is there.

Only what is missing is done, so that a second time does nothing, and one after a kill does the rest: a unit is stopped
before its drop-in changes, which leaves no unit running by an older one. While secrets are missing only the folders are
made, and whatever runs goes on.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from edged.domain.systemd.actions import Action, MakeFolder, RemoveFile, RemoveFolder, Systemctl, WriteFile
from edged.domain.systemd.setup import CREDENTIALS, UNITS, Folder, Setup, drop_in_of, possible_units


class UnitState(NamedTuple):
    """`active`: its ActiveState. `is_installed`: it has a file. `is_stale`: which has changed since it was read.

    `masked_by`: the link that lets it be neither started nor enabled; `program`: which it runs; "" for none.
    """

    active: str = "inactive"
    is_enabled: bool = False
    is_installed: bool = True
    is_stale: bool = False
    masked_by: str = ""
    program: str = ""

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it runs, or is about to run again."""
        return self.active in {"inactive", "failed"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What is on the machine now, of what concerns a node.

    `folders`: those that are there, with their modes and owners. `files`: the texts of drop-ins. `entries`: the names
    in folders that are removed, or filled, only if they are empty; of what even root may not read, none. `secrets`:
    files of credentials that are not empty.
    """

    units: Mapping[str, UnitState]
    folders: Mapping[str, Folder] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, frozenset[str]] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()


def missing_secrets(setup: Setup, seen: Seen) -> dict[str, str]:
    """The credentials whose files are not there, with their paths."""
    return {name: path for name, path in setup.secrets.items() if path not in seen.secrets}


def enabling(setup: Setup, seen: Seen) -> list[Action]:
    """What is left to be done until the node runs; nothing when it does, as the topology says."""
    actions: list[Action] = [MakeFolder(folder) for folder in setup.folders if _differs(folder, seen)]
    if missing_secrets(setup, seen):
        return actions
    changed = [unit for unit, text in setup.drop_ins.items() if seen.files.get(drop_in_of(unit)) != text]
    others = [unit for unit in possible_units(setup.node) if unit not in setup.units]
    actions += _systemctl("stop", (unit for unit in [*changed, *others] if not seen.units[unit].is_idle))
    actions += _withdrawn(others, seen)
    actions += [WriteFile(drop_in_of(unit), setup.drop_ins[unit]) for unit in changed]
    if changed or _has_drop_in(others, seen) or _is_stale(setup.node, seen):
        actions.append(Systemctl(("daemon-reload",)))
    actions += _systemctl("enable", (unit for unit in setup.units if not seen.units[unit].is_enabled))
    actions += _systemctl(
        "start", (unit for unit in setup.units if unit in changed or seen.units[unit].active != "active")
    )
    return actions


def disabling(node: str, seen: Seen) -> list[Action]:
    """What takes the node off the machine, whether the topology still has it or not. Its state and secrets stay."""
    units = possible_units(node)
    actions = [*_systemctl("stop", (unit for unit in units if not seen.units[unit].is_idle)), *_withdrawn(units, seen)]
    own = f"{CREDENTIALS}/{node}"
    if seen.entries.get(own) == frozenset():
        actions.append(RemoveFolder(own))
        if seen.entries.get(CREDENTIALS) == frozenset({node}):
            actions.append(RemoveFolder(CREDENTIALS))
    if _has_drop_in(units, seen) or _is_stale(node, seen):
        actions.append(Systemctl(("daemon-reload",)))
    actions += _systemctl("reset-failed", (unit for unit in units if seen.units[unit].active == "failed"))
    return actions


def wanted_by(unit: str) -> str:
    """The link by which an enabled unit is started."""
    return f"{UNITS}/multi-user.target.wants/{unit}"


def _differs(folder: Folder, seen: Seen) -> bool:
    there = seen.folders.get(folder.path)
    return there is None or (not folder.is_data and (there.mode, there.owner) != (folder.mode, folder.owner))


def _withdrawn(units: Iterable[str], seen: Seen) -> Iterator[Action]:
    """Disabled, and without a drop-in. A unit whose file is gone, or masked, has a link that systemctl leaves."""
    enabled = [unit for unit in units if seen.units[unit].is_enabled]
    known = [unit for unit in enabled if seen.units[unit].is_installed and not seen.units[unit].masked_by]
    yield from _systemctl("disable", known)
    for unit in enabled:
        if unit not in known:
            yield RemoveFile(wanted_by(unit))
    for unit in units:
        path = drop_in_of(unit)
        if path in seen.files:
            yield RemoveFile(path)
        folder = path.rpartition("/")[0]
        if folder in seen.entries and seen.entries[folder] <= {path.rpartition("/")[2]}:
            yield RemoveFolder(folder)


def _has_drop_in(units: Iterable[str], seen: Seen) -> bool:
    return any(drop_in_of(unit) in seen.files for unit in units)


def _is_stale(node: str, seen: Seen) -> bool:
    return any(seen.units[unit].is_stale for unit in possible_units(node))


def _systemctl(verb: str, units: Iterable[str]) -> Iterator[Systemctl]:
    if names := tuple(units):
        yield Systemctl((verb, *names))
