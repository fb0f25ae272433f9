"""What a broker's no means: whether it is for good, and in which words it is told."""

import asyncio
import socket
import ssl

import pytest
from aiokafka import errors

from edged.adapters.kafka.refusals import Identity, NotAllowed, refusal, sentence
from edged.domain.topology import Kafka, Security
from edged.domain.topology.rights import Rights
from edged.errors import LogForbidden, LogRefused

PLAIN = Identity(bootstrap=("broker.lan:9092",))
TLS = Identity("pi-a", "SCRAM-SHA-512", tls=True, bootstrap=("broker.lan:9093",))


def caused(error: BaseException) -> errors.KafkaConnectionError:
    """As aiokafka tells of a connection that broke."""
    outer = errors.KafkaConnectionError("Connection at broker.lan:9092 closed")
    outer.__cause__ = error
    return outer


def of_tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] something")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotAllowed("topic", "t", "Read"), LogForbidden),
        (errors.TopicAuthorizationFailedError("t"), LogForbidden),
        (errors.GroupAuthorizationFailedError(), LogForbidden),
        (errors.ClusterAuthorizationFailedError(), LogForbidden),
        (errors.SaslAuthenticationFailed("no"), LogForbidden),
        (errors.UnsupportedSaslMechanismError(), LogForbidden),
        (ssl.SSLCertVerificationError(1, "unknown"), LogForbidden),
        (of_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), LogForbidden),
        (caused(of_tls("TLSV1_ALERT_UNKNOWN_CA")), LogForbidden),
        (errors.PolicyViolationError("topic t is not created: too short a name"), LogRefused),
        (errors.InvalidTopicError("collides"), LogRefused),
        (errors.InvalidReplicationFactorError("3"), LogRefused),
        (errors.InvalidConfigurationError("x"), LogRefused),
        (errors.IncompatibleBrokerVersion("x"), LogRefused),
        (of_tls("WRONG_VERSION_NUMBER"), LogRefused),
        (errors.KafkaConnectionError("away"), None),
        (errors.RequestTimedOutError(), None),
        (errors.UnknownTopicOrPartitionError(), None),
        (errors.NotLeaderForPartitionError(), None),
        (ConnectionRefusedError(111, "refused"), None),
        (ConnectionResetError(), None),
        (socket.gaierror(-2, "Name or service not known"), None),
        (TimeoutError(), None),
    ],
    ids=repr,
)
def test_what_is_for_good_and_what_may_pass(error: BaseException, kind: type[LogRefused] | None):
    refused = refusal(error, "said")

    assert (None if refused is None else type(refused)) is kind
    assert refused is None or str(refused) == "said"


@pytest.mark.parametrize(
    ("error", "identity", "said"),
    [
        (
            errors.PolicyViolationError("topic t is not created: a rule of ours"),
            PLAIN,
            "topic t is not created: a rule of",
        ),
        (errors.SaslAuthenticationFailed("invalid credentials"), TLS, "invalid credentials (as User:pi-a)"),
        (errors.UnsupportedSaslMechanismError(object()), TLS, "the broker does not offer the mechanism SCRAM-SHA-512"),
        (errors.IllegalSaslStateError(object()), TLS, "the broker does not offer logins at this port"),
        (errors.InvalidRequestError(object()), PLAIN, "This most likely occurs because"),
        (socket.gaierror(-2, "Name or service not known"), PLAIN, "no address is known for this host"),
        (of_tls("WRONG_VERSION_NUMBER"), TLS, "is this a port for TLS?"),
        (ConnectionResetError(), TLS, "is this a port for TLS?"),
        (caused(asyncio.IncompleteReadError(b"", 4)), PLAIN, "the connection was closed"),
        (caused(asyncio.IncompleteReadError(b"abc", 352_518_912)), PLAIN, "does this port expect TLS?"),
        (errors.KafkaConnectionError(), PLAIN, "KafkaConnectionError"),
        (TimeoutError(), PLAIN, "no answer in time"),
    ],
    ids=lambda value: type(value).__name__,  # some errors name themselves by their address
)
def test_every_error_says_something(error: BaseException, identity: Identity, said: str):
    assert said in sentence(error, identity)


@pytest.mark.parametrize(
    ("security", "principal"),
    [
        (Security(), "ANONYMOUS"),
        (Security("SASL_SSL", "SCRAM-SHA-512", "somebody", "secret"), "somebody"),
        (Security("SASL_PLAINTEXT", "PLAIN", "somebody", "secret"), "somebody"),
        (Security("SSL", certificate="/c.pem", key="/k.pem"), "pi-a"),
        (Security("SSL"), "ANONYMOUS"),
    ],
)
def test_the_principal_is_who_logs_in(security: Security, principal: str):
    identity = Identity.of(Kafka(("broker.lan:9092",), security), Rights("pi-a", {"t": ["Write", "Read"]}))

    assert sentence(NotAllowed("topic", "t", None), identity) == (
        f"User:{principal} may not Write or Read topic t; it may after: kafka-acls.sh"
        f" --bootstrap-server broker.lan:9092 --add --allow-principal User:{principal}"
        " --operation Write --operation Read --topic t"
    )
    assert "secret" not in repr(identity)
