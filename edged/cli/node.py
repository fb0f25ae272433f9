"""`edged node`: has systemd run a node of the topology on this machine, and undoes that.

It prints each command and file before it acts. What is to be done is decided by `domain.systemd`, and done by
`adapters.host.machine`.
"""

import argparse
import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeGuard

from edged import topology_file
from edged.access import why_dead
from edged.adapters.host.machine import Machine
from edged.cli.arguments import require_node
from edged.cli.backbone import is_needed, look_up
from edged.cli.problems import complain, show
from edged.domain.systemd.actions import Action, Systemctl
from edged.domain.systemd.enabling import Seen, disabling, enabling, missing_secrets
from edged.domain.systemd.fit import misfits
from edged.domain.systemd.setup import CREDENTIALS, TOPOLOGY, USER, Setup, node_of, setup_of, unfit
from edged.domain.text import shown
from edged.domain.topology import NAME_PATTERN, Security, Tls, Topology
from edged.domain.validation.finding import Finding
from edged.errors import ConfigError, MachineUnfit, Problem
from edged.extras import not_installed
from edged.topology_file import Inspection

SUMMARY = "have systemd run a node on this machine, or no longer"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = (
        "Exit codes: 1 secrets are missing, the machine lacks something, or systemd refused: it says what; 77 this is"
        f" not root; 78 {TOPOLOGY} is wrong, or has no such node."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    enable = actions.add_parser(
        "enable",
        help=f"make the folders and drop-ins that the node needs by {TOPOLOGY}, and start its units, now and at each"
        " boot; again after that file has changed",
    )
    enable.set_defaults(act=_enable)
    disable = actions.add_parser(
        "disable", help="stop the node's units and remove what enable made; state, cache, archive and secrets stay"
    )
    disable.set_defaults(act=_disable)
    for action in (enable, disable):
        action.add_argument("node", type=_name, metavar="NAME", help="the node's name in the topology")
        action.add_argument("--dry-run", action="store_true", help="only print what would be done")


def run(args: argparse.Namespace) -> int:
    """Carry out `args.action`; the exit code. Raises ConfigError, MachineUnfit."""
    if os.geteuid() != 0:
        complain(f"edged node {args.action}", f"this takes root: sudo edged node {args.action} {args.node}")
        return os.EX_NOPERM
    machine = Machine()
    machine.require_systemd()
    with machine.alone():
        code: int = args.act(machine, args.node, is_dry=args.dry_run)
    return code


def _name(text: str) -> str:
    if unit := re.fullmatch(r"edged(?:-infer)?@(.+?)(?:\.service)?", text):
        raise argparse.ArgumentTypeError(f'"{text}" is a unit; its node is called "{unit[1]}"')
    if not re.fullmatch(NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(f'"{text}" cannot be the name of a node')
    return text


def _enable(machine: Machine, node: str, *, is_dry: bool) -> int:
    inspection = _inspect(machine, node)
    setup = setup_of(inspection.topology, node, inspection.credentials)
    closed = machine.closed_to_node(_files(inspection.topology, node))
    if lacks := [*machine.lacks(setup), *closed, *_lacks_packages(setup, inspection.topology)]:
        raise MachineUnfit("\n".join(lacks))
    seen = machine.seen(node, setup)
    missing = missing_secrets(setup, seen)
    show(_warnings(inspection, node, missing, machine.drop_ins()), sys.stderr, kind="warning")
    show(_other_programs(machine, setup, seen), sys.stderr, kind="warning")
    actions = enabling(setup, seen)
    _act(machine, actions, is_dry=is_dry)
    if missing:
        complain("edged node enable", _how_to_put(missing))
        return 1
    units = [unit.removesuffix(".service") for unit in setup.units]
    if not actions:
        print(f"nothing to do: {' and '.join(units)} run, now and at boot")
    elif not is_dry:
        print(f"{node} runs, now and at boot: journalctl {shlex.join(f'-u{each}' for each in units)} -o cat -f -p info")
    for line in _about_archive(setup, seen):
        print(shown(line))
    return 0


def _disable(machine: Machine, node: str, *, is_dry: bool) -> int:
    actions = disabling(node, machine.seen(node))
    _act(machine, actions, is_dry=is_dry)
    if not actions:
        nodes = sorted({node_of(unit) for unit in machine.drop_ins()})
        others = f"; enabled here: {', '.join(nodes)}" if nodes else ""
        print(f'nothing to do: no unit of "{node}" is enabled here{others}')
    return 0


def _act(machine: Machine, actions: Sequence[Action], *, is_dry: bool) -> None:
    """Print and carry out. Raises MachineUnfit; what was printed before is done then."""
    for number, action in enumerate(actions):
        _print(action)
        if is_dry:
            continue
        try:
            machine.carry_out(action)
        except MachineUnfit as error:
            if _is(action, "start"):
                units = shlex.join(f"-u{unit}" for unit in action.words[1:])
                raise MachineUnfit(f"{error}\nits log says why: journalctl {units} -p err -n 20 -o cat") from error
            _start_again(machine, actions[:number], actions[number:])
            raise


def _start_again(machine: Machine, done: Sequence[Action], left: Sequence[Action]) -> None:
    """What has been stopped only to be started: a full disk is no reason for a node to stay off."""
    stopped = {unit for action in done if _is(action, "stop") for unit in action.words[1:]}
    units = [unit for action in left if _is(action, "start") for unit in action.words[1:] if unit in stopped]
    if units:
        for again in (Systemctl(("daemon-reload",)), Systemctl(("start", *units))):
            _print(again)
            with contextlib.suppress(MachineUnfit):  # another reason is told
                machine.carry_out(again)


def _is(action: Action, verb: str) -> TypeGuard[Systemctl]:
    return isinstance(action, Systemctl) and action.words[0] == verb


def _print(action: Action) -> None:
    print("\n".join(map(shown, str(action).split("\n"))), flush=True)


# the topology


def _check_tls(files: Security | Tls, at: str) -> tuple[list[Finding], list[Finding]]:
    from edged.adapters import tls  # noqa: PLC0415 - `edged --help` loads this module

    return tls.problems(files, at), []  # root may read them all: who else may, the node tells


def _inspect(machine: Machine, node: str) -> Inspection:
    """The topology as the node will read it, but for credentials, which may be missing. Raises ConfigError."""
    file = machine.path(TOPOLOGY)
    if not file.exists():
        put = f"put the site's there: {_sudo()}install -D -m 644 topology.yaml {TOPOLOGY}"
        raise ConfigError((Problem("", why_dead(file) or "there is no topology yet", put, str(file)),))
    environment = {
        **os.environ,
        "NODE": node,
        **machine.environment(node),
        "CREDENTIALS_DIRECTORY": str(machine.path(f"{CREDENTIALS}/{node}")),
    }
    found = topology_file.inspect(file, environment, lenient=True, node=node, check_tls=_check_tls)
    require_node(found.topology, node, str(file))
    if is_needed(found.topology, node):
        topology_file.inspect(file, environment, lenient=True, node=node, look_up_backbone=look_up)
    if problem := unfit(found.topology, node):
        raise ConfigError((replace(problem, place=str(file)),))
    return found


def _files(topology: Topology, node: str) -> Iterator[str]:
    """What the node reads of its own machine's, but for secrets, which systemd reads as root."""
    yield TOPOLOGY
    clients: list[Security | Tls | None] = [topology.kafka.security]
    if topology.mqtt is not None and topology.speaks_mqtt(node):
        clients.append(topology.mqtt.tls)
    for client in clients:
        if client is not None:
            yield from filter(None, (client.ca, client.certificate, client.key))


def _warnings(
    inspection: Inspection, node: str, missing: Mapping[str, str], drop_ins: Mapping[str, str]
) -> Iterator[Problem]:
    """What is probably not intended: in the file but for missing secrets, and about this machine's other nodes."""
    told_apart = {inspection.credentials[name] for name in missing}
    yield from (each for each in inspection.warnings if each.path not in told_apart)
    others = {unit: text for unit, text in drop_ins.items() if node_of(unit) != node}
    yield from misfits(inspection.topology, inspection.credentials, others)


# the machine


def _lacks_packages(setup: Setup, topology: Topology) -> Iterator[str]:
    """What edged was installed without, of what the node needs."""
    if setup.archive and find_spec("pyarrow") is None:
        yield not_installed("the archive's part of edged", "archive")
    if topology.speaks_mqtt(setup.node) and find_spec("paho") is None:
        yield not_installed("paho, which nodes on MQTT need,", "mqtt")


def _other_programs(machine: Machine, setup: Setup, seen: Seen) -> Iterator[Problem]:
    """Units that another installation has left, which win over those of this one."""
    own = os.path.realpath(Path(sys.prefix, "bin", "edged"))
    for unit in setup.units:
        program = seen.units[unit].program
        if program and os.path.realpath(machine.path(program)) != own:
            of_other = f"if that is an older installation remove its file: `systemctl cat {unit}`"
            yield Problem("", f"{unit} runs {program}, and this is {own}", of_other)


def _how_to_put(missing: Mapping[str, str]) -> str:
    """The commands that put the secrets in their places, without showing them or keeping them in a history."""
    commands = "".join(
        f"\n  systemd-ask-password -n {name}: | {_sudo()}install -m 600 /dev/stdin {path}"
        for name, path in missing.items()
    )
    return (
        f"no unit was touched, as {'a secret is' if len(missing) == 1 else 'secrets are'} missing: put"
        f" {'it' if len(missing) == 1 else 'them'} there and run this again:{commands}"
    )


def _about_archive(setup: Setup, seen: Seen) -> Iterator[str]:
    """What is left to do about the archive's folder, by whoever knows that it is the right one."""
    if setup.archive:
        there = seen.folders.get(setup.archive)
        entries = seen.entries.get(setup.archive, None if there else frozenset())
        is_empty = entries is not None and entries <= {"lost+found"}  # a new file system has one
        if there is not None and there.owner != USER:
            mended = f"{_sudo()}chown {'' if is_empty else '-R '}{USER}: {shlex.quote(setup.archive)}"
            yield f"{setup.archive} belongs to {there.owner}: `{mended}`"
        if is_empty:
            yield f"{setup.archive} is empty; once: {_sudo()}runuser -u {USER} -- edged archive init {TOPOLOGY}"


def _sudo() -> str:
    """How root's commands begin for whoever has called this one so."""
    return "sudo " if "SUDO_USER" in os.environ else ""
