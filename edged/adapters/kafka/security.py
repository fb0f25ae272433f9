"""The options of aiokafka's clients for reaching the brokers: addresses, TLS, SASL."""

import ssl
from typing import Any

from edged.domain.topology import Kafka, Security
from edged.errors import ConfigError, Problem


def client_options(kafka: Kafka, client_id: str) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes. Holds the password: never log it.

    Reads the certificate files; raises ConfigError with all that cannot be used.
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
        """Judges the files at once, so that one that cannot be used is known at the start. Raises ConfigError."""
        from edged.adapters import tls  # noqa: PLC0415 - a device without TLS does not load it

        if findings := tls.problems(security):
            raise ConfigError(tuple(Problem(each.path, each.message, each.suggestion) for each in findings))
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._security = security
        return context

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Called by asyncio for each new connection. Raises OSError, which fails that connection alone."""
        from edged.adapters import tls  # noqa: PLC0415 - as above

        return tls.context(self._security).wrap_bio(*arguments, **options)
