"""The options of aiokafka's clients for reaching the brokers: addresses, TLS, SASL."""

import ssl
from pathlib import Path
from typing import Any

from edged.domain.topology import Kafka, Security
from edged.errors import ConfigError, Problem


def client_options(kafka: Kafka, client_id: str) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes. Holds the password: never log it.

    Reads the certificate files; raises ConfigError when one is missing or not valid.
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
        """Reads the files once at once, so that a missing one is known at the start. Raises ConfigError."""
        try:
            _ssl_context(security)
        except _Unusable as error:
            raise ConfigError((Problem(error.key, error.reason),)) from error
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._security = security
        return context

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Called by asyncio for each new connection. Raises OSError, which fails that connection alone."""
        return _ssl_context(self._security).wrap_bio(*arguments, **options)


class _Unusable(OSError):  # noqa: N818 - of a file
    """A file of kafka.security, in words: neither ssl's own errors nor those of its reading name the file."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"kafka.security.{key}: {reason}")
        self.key = f"kafka.security.{key}"
        self.reason = reason


def _ssl_context(security: Security) -> ssl.SSLContext:
    """Raises _Unusable."""
    for key, file in (("ca", security.ca), ("certificate", security.certificate), ("key", security.key)):
        try:
            if file is not None:
                Path(file).open("rb").close()
        except OSError as error:
            raise _Unusable(key, f"{file} cannot be read: {error.strerror or error}") from error
    try:
        context = ssl.create_default_context(cafile=security.ca)  # checks host names; the system's CAs without a file
    except ssl.SSLError as error:
        raise _Unusable("ca", f"{security.ca} holds no certificate in PEM ({error.reason or error})") from error
    if security.certificate is not None:
        try:
            context.load_cert_chain(security.certificate, security.key)
        except ssl.SSLError as error:
            both = f"{security.certificate} and {security.key}"
            said = f"{both} are not in PEM, or not of each other ({error.reason or error})"
            raise _Unusable("certificate", said) from error
    return context
