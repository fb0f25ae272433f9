"""Mosquitto's configuration for a topology: settings, access list and users, as commands to paste.

Written for Debian's folders, where /etc/mosquitto/mosquitto.conf names the store and includes conf.d. Values only. See
also: systemd/README.md, with what each setting was measured to lose.
"""

from collections.abc import Iterator, Sequence

from edged.domain.mqtt.rights import rights, users
from edged.domain.topology import Mqtt, Topology

FOLDER = "/etc/mosquitto"

_SETTINGS, _ACL, _PASSWORDS = f"{FOLDER}/conf.d/edged.conf", f"{FOLDER}/edged.acl", f"{FOLDER}/edged.passwd"

_ASK = f'mosquitto_passwd {_PASSWORDS} "$user"'

AUTOSAVE_S = 10
"""Mosquitto writes its whole store each time. On every change it would for each message that waits for an edge."""

QUEUE_BYTES = 64 << 20
"""Of one device, waiting for its edge: Mosquitto holds it in memory, and silently drops the rest."""

_NO_LIMIT = 1_000_000_000
"""0 should mean that, and drops all in 2.0.16 and 2.0.21 (mosquitto#2879, #3244)."""

_EXPIRY = "14d"
"""Of sessions over MQTT 3.1.1, which would be kept for ever. Twice what edged asks for."""


def commands(topology: Topology) -> Iterator[str]:
    """The lines of a shell's script that root runs on the broker's machine; none where no device speaks MQTT."""
    mqtt, names = topology.mqtt, users(topology)
    if mqtt is None or not names:
        return
    yield "# MQTT: Mosquitto's settings, on its own machine, as root; what is there is replaced"
    yield from _file(_SETTINGS, settings(mqtt), 0o644)
    if _has_logins(mqtt):
        yield from _file(_ACL, access_list(topology), 0o600)
    if mqtt.username is not None:
        yield from _users(names)
        return
    yield from ("", "systemctl restart mosquitto")


def settings(mqtt: Mqtt) -> list[str]:
    """The lines of a file for conf.d."""
    return [*_listener(mqtt), "", *keeping(mqtt)]


def keeping(mqtt: Mqtt) -> list[str]:
    """Those of them that say what is kept, for how long, and what is refused."""
    return [
        "# Sessions and what waits in them go to disk as a whole each time, and at a clean stop. Killed, or without",
        f"# power, Mosquitto forgets what it acknowledged in the last {AUTOSAVE_S + 1} s and no edge had taken yet.",
        "persistence true",
        f"autosave_interval {AUTOSAVE_S}",
        "",
        f"# While an edge is away, each of its devices may have {QUEUE_BYTES >> 20} MiB waiting, in memory; more is",
        "# dropped, though acknowledged. No limit by number: the default of 1,000 messages is soon reached.",
        f"max_queued_messages {_NO_LIMIT}",
        f"max_queued_bytes {QUEUE_BYTES}",
        f"persistent_client_expiration {_EXPIRY}",
        "",
        "# A device that sends a larger packet is disconnected. message_size_limit would acknowledge and drop it.",
        f"max_packet_size {mqtt.packet_bytes}",
        f"max_inflight_messages {mqtt.window}",
        "set_tcp_nodelay true",
    ]


def access_list(topology: Topology) -> list[str]:
    """The lines of an acl_file: nobody has a right that is not among them."""
    lines: list[str] = []
    for name in users(topology):
        lines += [""] if lines else []
        lines.append(f"user {name}")
        lines += [f"topic {right.operation} {right.topics}" for right in rights(topology) if right.user == name]
    return lines


def _users(names: Sequence[str]) -> Iterator[str]:
    """One command to its end: of what is pasted behind it, the first password would be made."""
    yield ""
    yield "# MQTT: users, but for those that it knows already; of each it asks for the password that the node has."
    yield f"# Another one later: mosquitto_passwd {_PASSWORDS} NAME"
    yield f"test -e {_PASSWORDS} || install -m 600 -o mosquitto -g mosquitto /dev/null {_PASSWORDS}"
    yield f"for user in {' '.join(names)}; do"
    yield f'cut -d : -f 1 {_PASSWORDS} | grep -Fqx "$user" || {{ echo "MQTT user $user"; {_ASK}; }}'
    yield "done; systemctl restart mosquitto"


def _listener(mqtt: Mqtt) -> Iterator[str]:
    if mqtt.is_loopback:
        yield "# For this machine alone: for devices elsewhere give mqtt.broker the name by which they find it."
    yield f"listener {mqtt.port}{f' {mqtt.host}' if mqtt.is_loopback else ''}"
    if mqtt.tls is not None:
        yield f"certfile {FOLDER}/certs/broker.pem"
        yield f"keyfile {FOLDER}/certs/broker.key"
        if mqtt.tls.certificate is not None:
            yield f"cafile {FOLDER}/certs/ca.pem"
            yield "require_certificate true"
    if not _has_logins(mqtt):
        yield "# the topology has no mqtt.username: whoever reaches this port publishes as any device"
        yield "allow_anonymous true"
        return
    yield "allow_anonymous false"
    yield f"password_file {_PASSWORDS}" if mqtt.username is not None else "use_identity_as_username true"
    yield f"acl_file {_ACL}"


def _has_logins(mqtt: Mqtt) -> bool:
    return mqtt.username is not None or (mqtt.tls is not None and mqtt.tls.certificate is not None)


def _file(path: str, lines: list[str], mode: int) -> Iterator[str]:
    owner = "" if mode & 0o004 else " -o mosquitto -g mosquitto"
    yield f"install -m {mode:o}{owner} /dev/stdin {path} <<'END'"
    yield from lines
    yield "END"
