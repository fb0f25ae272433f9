"""Why a broker refused, or a connection ended, in words; and whether it would be the same again.

Covers MQTT's reason codes and the errors of sockets and TLS.
"""

import socket
import ssl
from dataclasses import dataclass
from typing import Literal

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edged.domain.text import shown

KEEPALIVE_TIMEOUT = 0x8D
TAKEN_OVER = 0x8E
QUOTA_EXCEEDED = 0x97
NOBODY = 0x10
UNSUPPORTED_VERSION = 0x84

_NO_LOGIN = {0x86, 0x87}
"""Brokers answer either to a user that they do not know, or whose password is another."""

_LATER = {0x83, 0x88, 0x89, 0x8B, 0x97, 0x9F, 0xA0}
"""Reasons for which a broker refuses now, and perhaps not in a moment: busy, shutting down, over a rate."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")

_NOBODY_THERE = {
    socket.gaierror: "no address is known for this host",
    ConnectionRefusedError: "does the broker run, and listen at this address and port?",
}

EndKind = Literal["lost", "hung_up", "refused", "version", "taken_over", "closed"]


@dataclass(frozen=True, slots=True)
class End:
    """Why a connection ended, or never began.

    `hung_up`: by a broker that had accepted the client, silently. `refused`: by an answer that would be the same
    again. `version`: MQTT 5 is not spoken there. `closed`: by us.
    """

    kind: EndKind
    reason: str


def by_connack(code: int, username: str | None = None) -> End:
    """The broker's answer to CONNECT, which is not yes; paho translates the codes of 3.1.1."""
    said = f"the broker refuses: {named(PacketTypes.CONNACK, code)}"
    if code in _NO_LOGIN:
        user = f'it does not know user "{shown(username)}", or has another password for it' if username else ""
        said = f"{said}: {user or 'mqtt.username and mqtt.password say who comes'}"
    if code == UNSUPPORTED_VERSION:
        return End("version", said)
    return End("lost" if code in _LATER else "refused", said)


def by_disconnect(code: int) -> End:
    """The broker has ended a connection with this reason, which MQTT 5 alone has."""
    if code == TAKEN_OVER:
        return End("taken_over", "another client with the same client id has taken the session over (0x8e)")
    said = f"the broker has disconnected: {named(PacketTypes.DISCONNECT, code)}"
    return End("lost" if code in _LATER or not code else "refused", said)


def named(packet_type: int, code: int) -> str:
    """The code's name in the standard, and its number, by which it is found everywhere."""
    try:
        name = str(ReasonCode(packet_type, identifier=code))
    except KeyError:
        name = "a reason without a name"
    return f"{name[:1].lower()}{name[1:]} (0x{code:02x})"


def by_error(error: Exception, *, is_tls: bool, is_dialing: bool) -> End:
    """A socket's error, or TLS's."""
    text = str(error) or type(error).__name__
    for kind, hint in _NOBODY_THERE.items():
        if isinstance(error, kind):
            return End("lost", f"{text} ({hint})")
    if isinstance(error, ssl.SSLError):
        return _by_tls(error, text)
    if isinstance(error, TimeoutError):
        return End("lost", "no answer in time")
    if isinstance(error, ConnectionError):
        if is_dialing and is_tls:
            return End("lost", f"{text} (the connection was closed in the TLS handshake: is this a port for TLS?)")
        return End("lost" if is_dialing else "hung_up", text)
    return End("lost", text)


def _by_tls(error: ssl.SSLError, text: str) -> End:
    if isinstance(error, ssl.SSLCertVerificationError):
        return End("refused", f"the broker's certificate is not accepted: {error.verify_message or text}")
    if isinstance(error, ssl.SSLEOFError):
        hint = (
            "is this a port for TLS, and does it ask for a client's certificate, or take ours for expired or unknown?"
        )
        return End("lost", f"{text} ({hint})")
    if (error.reason or "") in _NO_TLS:
        return End("lost", f"{text} (is this a port for TLS?)")
    if "ALERT" in (error.reason or ""):
        return End("refused", f"the broker does not accept our certificate, or wants one: {text}")
    return End("lost", text)
