"""A broker's no: in words, with host and port, and whether it is for good.

Knows no connection. A node keeps asking, whatever the answer, for an administrator may mend what is wrong; a command
ends at what is for good.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidReplicationAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    SecurityDisabled,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
    UnsupportedVersionError,
)

from edged.domain.topology import Kafka, kafka_commands
from edged.domain.topology.rights import Rights
from edged.errors import LogForbidden, LogRefused


class NotAllowed(KafkaError):  # type: ignore[misc]  # noqa: N818 - as the errors of edged.errors
    """The principal lacks a right to a topic or a group. `operation`: None where any right would have done."""

    def __init__(self, kind: str, name: str, operation: str | None) -> None:
        super().__init__(f"no right to {kind} {name}")
        self.kind = kind
        self.name = name
        self.operation = operation


RIGHTS = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, ClusterAuthorizationFailedError)
_FORBIDDEN = (NotAllowed, *RIGHTS, SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError)
_REFUSED = (
    InvalidTopicError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidReplicationAssignmentError,
    InvalidConfigurationError,
    PolicyViolationError,
    InvalidRequestError,
    UnsupportedVersionError,
    IncompatibleBrokerVersion,
    SecurityDisabled,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
_NO_ANSWER_BYTES = 1 << 28
"""An answer that claims to be longer begins with something else, such as a TLS alert."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks whom: for sentences and commands. Holds no secret."""

    principal: str = "ANONYMOUS"
    mechanism: str = ""
    tls: bool = False
    bootstrap: Sequence[str] = ()
    rights: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, kafka: Kafka, rights: Rights) -> "Identity":
        """A certificate's principal is taken to be the node's name, as the printed ACLs do."""
        security = kafka.security
        if security.protocol.startswith("SASL"):
            principal = security.username or ""
        else:
            principal = rights.node if security.certificate else "ANONYMOUS"
        return cls(
            principal or "ANONYMOUS",
            (security.mechanism or "") if security.protocol.startswith("SASL") else "",
            security.protocol.endswith("SSL"),
            kafka.bootstrap,
            rights.topics,
        )


def not_allowed(error: BaseException) -> NotAllowed | None:
    """The missing right that `error` is about. aiokafka's own errors name a topic that may not be read."""
    if isinstance(error, NotAllowed):
        return error
    if isinstance(error, TopicAuthorizationFailedError) and error.args:
        return NotAllowed("topic", str(error.args[0]), "Read")
    return None


def sentence(error: BaseException, identity: Identity) -> str:
    """What went wrong, for people: the broker's own words where it has said any."""
    missing = not_allowed(error)
    if missing is not None:
        return _missing_right(missing, identity)
    if isinstance(error, KafkaConnectionError) and error.__cause__ is not None:
        return sentence(error.__cause__, identity)
    if isinstance(error, (UnsupportedSaslMechanismError, IllegalSaslStateError)):
        takes_logins = isinstance(error, UnsupportedSaslMechanismError)
        lacking = f"the mechanism {identity.mechanism}" if takes_logins else "logins at this port"
        return f"the broker does not offer {lacking}"
    if isinstance(error, BrokerResponseError):
        said = error.args[0] if error.args else ""  # of some errors aiokafka's connection
        words = said if said and isinstance(said, str) else error.description or type(error).__name__
        return f"{words} (as User:{identity.principal})" if isinstance(error, SaslAuthenticationFailed) else words
    if isinstance(error, asyncio.IncompleteReadError):
        return f"the connection was closed{_guess_at_close(error, identity)}"
    return (str(error) or type(error).__name__) + _guess(error, identity)


def refusal(error: BaseException, said: str) -> LogRefused | None:
    """The error for a command that does not repeat what is refused for good; None where it may yet succeed."""
    if isinstance(error, KafkaConnectionError) and error.__cause__ is not None:
        return refusal(error.__cause__, said)
    if isinstance(error, (*_FORBIDDEN, ssl.SSLCertVerificationError)):
        return LogForbidden(said)
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return LogForbidden(said)  # the broker does not accept the client's certificate, or wants one
    if isinstance(error, _REFUSED) or (isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER"):
        return LogRefused(said)
    if isinstance(error, asyncio.IncompleteReadError) and _is_no_answer(error):
        return LogRefused(said)
    return None


def is_closed_in_handshake(error: BaseException, identity: Identity) -> bool:
    """Whether the other side hung up on a client that begins TLS, as one does that expects none."""
    if isinstance(error, KafkaConnectionError) and error.__cause__ is not None:
        return is_closed_in_handshake(error.__cause__, identity)
    is_eof = isinstance(error, ssl.SSLError) and error.reason == "UNEXPECTED_EOF_WHILE_READING"
    is_closed = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
    return identity.tls and (is_eof or is_closed)


def _missing_right(missing: NotAllowed, identity: Identity) -> str:
    needed = [missing.operation] if missing.operation else list(identity.rights.get(missing.name, ["Describe"]))
    command = kafka_commands.allow(identity.bootstrap, identity.principal, needed, missing.kind, missing.name)
    what = f"{' or '.join(needed)} {missing.kind} {missing.name}"
    return f"User:{identity.principal} may not {what}; it may after: {command}"


def _guess(error: BaseException, identity: Identity) -> str:
    """What may be behind an error of a connection, of which no broker has said anything."""
    if isinstance(error, socket.gaierror):
        return " (no address is known for this host)"
    if isinstance(error, ssl.SSLError) and (error.reason or "") in _NO_TLS:
        return " (is this a port for TLS?)"
    if isinstance(error, ConnectionError) and identity.tls and not isinstance(error, ConnectionRefusedError):
        return " (the connection was closed in the TLS handshake: is this a port for TLS?)"
    if isinstance(error, TimeoutError) and not error.args:
        return ": no answer in time"
    return ""


def _guess_at_close(error: asyncio.IncompleteReadError, identity: Identity) -> str:
    if _is_no_answer(error) and not identity.tls:
        return ", and what came before is no answer of Kafka's (does this port expect TLS?)"
    return ""


def _is_no_answer(error: asyncio.IncompleteReadError) -> bool:
    return (error.expected or 0) > _NO_ANSWER_BYTES
