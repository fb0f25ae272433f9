"""The options of aiokafka's clients for reaching the brokers: addresses, TLS, SASL."""

import ssl
from typing import Any

from edged.domain.topology import Kafka, Security


def client_options(kafka: Kafka, client_id: str) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes. Holds the password: never log it.

    Reads the certificate files; raises OSError or ssl.SSLError when one is missing or not valid.
    """
    security = kafka.security
    options: dict[str, Any] = {
        "bootstrap_servers": list(kafka.bootstrap),
        "client_id": client_id,
        "security_protocol": security.protocol,
        # With the default of 100 ms a whole fleet would retry ten times a second while its broker is away.
        "retry_backoff_ms": 500,
    }
    if security.protocol.endswith("SSL"):
        options["ssl_context"] = _FreshContext.of(security)
    if security.protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": security.mechanism,
            "sasl_plain_username": security.username,
            "sasl_plain_password": security.password,
        }
    return options


class _FreshContext(ssl.SSLContext):
    """A context that reads the certificate files again for each connection: renewed ones need no restart."""

    _security: Security

    @classmethod
    def of(cls, security: Security) -> "_FreshContext":
        """Reads the files once at once, so that a missing one is known at the start."""
        _ssl_context(security)
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._security = security
        return context

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Called by asyncio for each new connection. Raises as `_ssl_context`, which fails that connection alone."""
        return _ssl_context(self._security).wrap_bio(*arguments, **options)


def _ssl_context(security: Security) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=security.ca)  # checks host names; the system's CAs without a file
    if security.certificate is not None:
        context.load_cert_chain(security.certificate, security.key)
    return context
