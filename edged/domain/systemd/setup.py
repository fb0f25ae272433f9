"""What a node needs of its machine: units, their drop-ins, folders and secrets.

No name needs systemd's escapes: `NAME_PATTERN` has only what a unit's name may have, and the whole name is always
written, as "edged@a.mount" would be a mount. See also: the units themselves, in systemd/.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from edged.domain.topology import Topology
from edged.errors import Problem

TOPOLOGY = "/etc/edged/topology.yaml"
"""The file that the units read."""

CREDENTIALS = "/etc/edged/credentials"
"""Each node has a folder of its own in it: two nodes of one machine may have the same file and other passwords."""

UNITS, DROP_IN = "/etc/systemd/system", "50-node.conf"
"""A name before "override.conf", so that `systemctl edit` has the last word."""

USER = "edged"
_STATE, _CACHE = "/var/lib/edged", "/var/cache/edged"

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - nothing is put there
"""ProtectHome= and PrivateTmp= keep them from the units."""

_PURGED = (_STATE, _CACHE, posixpath.dirname(TOPOLOGY))
"""They go when the package is purged, and the cache before."""

_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/run", "/sbin", "/sys", "/usr")
"""Whoever may write there may become root, or loses what is written at the next boot."""

_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")


class Folder(NamedTuple):
    """A folder, its mode, and its owner and group. `is_data`: made if it is missing, else left as it is."""

    path: str
    mode: int
    owner: str
    is_data: bool = False


@dataclass(frozen=True, slots=True)
class Setup:
    """`drop_ins`: the text of each unit's, by the unit. `secrets`: the file of each credential, by its name.

    `archive`: the folder of a local archive that this node keeps; "" of any other node.
    """

    node: str
    drop_ins: Mapping[str, str]
    folders: tuple[Folder, ...]
    secrets: Mapping[str, str]
    archive: str = ""

    @property
    def units(self) -> tuple[str, ...]:
        """The units of the node, in the order in which they start."""
        return tuple(self.drop_ins)


def setup_of(topology: Topology, node: str, credentials: Mapping[str, str]) -> Setup:
    """What `node`, an edge or the archive, needs.

    `credentials`: the names that the topology's file refers to, with a path that does. Those of section `mqtt` are
    needed by nodes that speak it, those of section `archive` by its node.
    """
    tier = topology.tier_of(node)
    assert tier in {"edge", "archive"}
    daemon, companion = possible_units(node)
    archive = archive_folder(topology) if tier == "archive" else ""
    needed = (name for name, at in credentials.items() if _needs(topology, node, at))
    secrets = {name: f"{CREDENTIALS}/{node}/{name}" for name in sorted(needed)}
    drop_ins = {daemon: _drop_in(node, secrets, archive)}
    if tier == "edge" and topology.jobs:  # there is nothing else to predict with
        drop_ins[companion] = _drop_in(node, secrets, "")
    return Setup(node, drop_ins, tuple(_folders(node, secrets, archive)), secrets, archive)


def _needs(topology: Topology, node: str, at: str) -> bool:
    """Whether the node needs what the path of the topology's file refers to."""
    if at.startswith("archive["):
        return topology.tier_of(node) == "archive"
    return not at.startswith("mqtt.") or topology.speaks_mqtt(node)


def possible_units(node: str) -> tuple[str, str]:
    """The units that a node may have, whatever the topology says: its daemon's and its companion's."""
    return f"edged@{node}.service", f"edged-infer@{node}.service"


def node_of(unit: str) -> str:
    """The node that has the unit."""
    return unit.partition("@")[2].removesuffix(".service")


def drop_in_of(unit: str) -> str:
    """The path of the unit's drop-in."""
    return f"{UNITS}/{unit}.d/{DROP_IN}"


def archive_folder(topology: Topology) -> str:
    """The archive's folder where it is a local one, else ""."""
    url = topology.archive[0].url
    if not url.startswith("file://"):
        return ""
    return posixpath.normpath("/" + urlsplit(url).path.lstrip("/"))  # by POSIX, two slashes may be another place


def unfit(topology: Topology, node: str) -> Problem | None:
    """Why no unit can be this node; None when one can."""
    tier = topology.tier_of(node)
    if tier == "iot":
        return Problem("", f'"{node}" is a device, and units are edges or the archive', "`edged sensor` plays a device")
    if tier != "archive":
        return None
    url, folder = topology.archive[0].url, archive_folder(topology)
    if is_unknown(url):
        return Problem(
            "archive[0].url",
            f"which folder the unit may write is not known: {url}",
            f"give the unit the variable: Environment=… in `systemctl edit {possible_units(node)[0]}`",
        )
    reason = _why_no_archive(folder) if folder else ""
    return Problem("archive[0].url", reason, "choose another folder, such as /srv/edged") if reason else None


def _why_no_archive(folder: str) -> str:
    """Why the archive cannot be there; "" where it can."""
    for each in _HIDDEN:
        if _holds(each, folder):
            return f"units do not see what is below {each}"
    for each in _PURGED:
        if _holds(each, folder):
            return f"what is below {each} goes with the nodes' own files, as when the package is purged"
    for each in _SYSTEM:
        if _holds(each, folder) or _holds(folder, each):
            return f"{each} is the system's own, which a node never may write: {folder}"
    for each in (*_HIDDEN, *_PURGED):
        if _holds(folder, each):
            return f"{each} is below {folder}, and is no part of an archive"
    return ""


def is_unknown(url: str) -> bool:
    """Whether a part of the archive's URL comes from a variable that is not known here."""
    return "${" in url


def _holds(above: str, folder: str) -> bool:
    """Whether a folder is this one, or lies below it."""
    return f"{folder.rstrip('/')}/".startswith(f"{above.rstrip('/')}/")


def _drop_in(node: str, secrets: Mapping[str, str], archive: str) -> str:
    """The text of a drop-in; its comment says whose it is."""
    lines = [
        f"# Made by `edged node enable {node}` from {TOPOLOGY}; `edged node disable {node}` removes it.",
        "# Your own settings go into another one: see `systemctl edit`.",
        "",
    ]
    if archive:
        lines += ["[Unit]", f"RequiresMountsFor={_quoted(archive)}", ""]
    lines += ["[Service]", "Environment=NODE=%i"]
    lines += [f"LoadCredential={name}:{path}" for name, path in secrets.items()]
    if archive:
        lines.append(f"ReadWritePaths={_quoted(archive)}")
    return "\n".join([*lines, ""])


def _folders(node: str, secrets: Mapping[str, str], archive: str) -> Iterator[Folder]:
    if secrets:
        yield Folder(CREDENTIALS, 0o700, "root")
        yield Folder(f"{CREDENTIALS}/{node}", 0o700, "root")
    # systemd makes both the user's at each start, with all that is in them, such as the state that another card's user
    # wrote; but not where the folder itself already is the user's.
    yield Folder(_STATE, 0o750, USER, is_data=True)
    yield Folder(_CACHE, 0o750, USER, is_data=True)
    if archive:
        yield Folder(archive, 0o750, USER, is_data=True)


def _quoted(path: str) -> str:
    """The path as one word of a unit's setting that takes several."""
    if _PLAIN.fullmatch(path):
        return path
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
