"""The connection to Kafka: security settings that contradict each other, passwords and data sent unencrypted."""

from collections.abc import Iterator

from edged.domain.topology import Topology
from edged.domain.validation.finding import Finding


def problems(topology: Topology) -> Iterator[Finding]:
    """See `rules.problems`."""
    security = topology.kafka.security
    at = "kafka.security"
    needs = (f"{at}.protocol",)
    sasl = {"mechanism": security.mechanism, "username": security.username, "password": security.password}
    if security.protocol.startswith("SASL"):
        missing = [key for key, value in sasl.items() if value is None]
        if missing:
            yield Finding(
                at,
                f"{security.protocol} needs {' and '.join(missing)}",
                needs=(*needs, *(f"{at}.{key}" for key in missing)),
            )
    else:
        for key, value in sasl.items():
            if value is not None:
                yield Finding(
                    f"{at}.{key}",
                    f"{security.protocol} does not use it",
                    "use protocol: SASL_SSL or leave it out",
                    needs,
                )
    if security.protocol == "SASL_PLAINTEXT" and security.mechanism == "PLAIN" and not topology.kafka.is_loopback:
        yield Finding(
            f"{at}.mechanism",
            "PLAIN would send the password unencrypted over the network",
            "use protocol: SASL_SSL",
            (*needs, "kafka.bootstrap[]"),
        )
    yield from _certificates(topology)


def _certificates(topology: Topology) -> Iterator[Finding]:
    security = topology.kafka.security
    at = "kafka.security"
    files = {
        "ca": security.ca,
        "certificate": security.certificate,
        "key": security.key,
        "key_password": security.key_password,
    }
    if not security.protocol.endswith("SSL"):
        for name, value in files.items():
            if value is not None:
                yield Finding(
                    f"{at}.{name}",
                    f"{security.protocol} does not use it",
                    "use protocol: SSL or SASL_SSL, or leave it out",
                    (f"{at}.protocol",),
                )
        return
    for name, other in (("certificate", "key"), ("key", "certificate"), ("key_password", "key")):
        if files[name] is not None and files[other] is None:
            yield Finding(f"{at}.{name}", f"it is used only with its {other}", f"add {other}", (f"{at}.{other}",))


def warnings(topology: Topology) -> Iterator[Finding]:
    """See `rules.warnings`."""
    if topology.kafka.security.protocol.endswith("PLAINTEXT") and not topology.kafka.is_loopback:
        yield Finding(
            "kafka.bootstrap",
            "samples and models go over the network unencrypted",
            "see kafka.security; SASL_SSL encrypts and tells the nodes apart",
            ("kafka.bootstrap[]", "kafka.security.protocol"),
        )
