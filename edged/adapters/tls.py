"""TLS towards the brokers: the files that `kafka.security` or `mqtt.tls` names, judged one by one, and the context.

Neither OpenSSL's errors nor those of reading name a file; here each is told by its key, its path and what is wrong with
it. Covers what can be told without a broker: who signed a certificate and for whom is found out by the handshake.
"""

import contextlib
import re
import ssl
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from edged.access import exposure, why_refused
from edged.adapters import tls_kinds
from edged.adapters.tls_kinds import CERTIFICATE, PRIVATE_KEY
from edged.domain.topology import Security, Tls
from edged.domain.validation.finding import Finding
from edged.files import read_regular

TlsFiles = Security | Tls
"""What names the files. `at`, in all functions: its path in the topology."""

OF_KAFKA, OF_MQTT = "kafka.security", "mqtt.tls"

MAX_BYTES = 4 << 20
"""Of one file. All authorities of a Debian are 0.2 MB."""

_OF_ANOTHER_KEY = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}
_REFUSES_CERTIFICATE = re.compile("EE_|CA_")
"""OpenSSL's reasons for a certificate that is too weak."""


_decode_certificate: Callable[[str | None], dict[str, Any]] = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]  # noqa: SLF001
"""The standard library has no public reader of a certificate's fields."""


class TlsFilesError(OSError):
    """One of the files cannot be used; an OSError, so that one connection fails, and the next reads it again.

    `findings`: all that is wrong.
    """

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(f"{each.path}: {each.message}" for each in findings))
        self.findings = findings


def context(files: TlsFiles, at: str = OF_KAFKA) -> ssl.SSLContext:
    """Verifies brokers and their host names, by the system's authorities without `ca`. Raises TlsFilesError."""
    if findings := problems(files, at):
        raise TlsFilesError(findings)
    try:
        made = ssl.create_default_context(cafile=files.ca)
        if files.certificate is not None:
            made.load_cert_chain(files.certificate, files.key, files.key_password or "")
    except (OSError, ValueError) as error:  # one was replaced in between
        raise TlsFilesError([Finding(at, f"a file has just changed: {error}")]) from error
    return made


def expired(files: TlsFiles, at: str = OF_KAFKA) -> list[Finding]:
    """Whose time is over by this machine's clock; of files with `problems` nothing.

    For people who check: a node's clock may be wrong, so a node leaves the verdict to the handshake, again and again.
    """
    found = []
    with contextlib.suppress(OSError):
        authorities = ssl.create_default_context(cafile=files.ca).get_ca_certs() if files.ca else []
        expiries = [str(each["notAfter"]) for each in authorities if "notAfter" in each]
        if expiries and all(map(_is_past, expiries)):
            latest = max(expiries, key=ssl.cert_time_to_seconds)
            found.append(_finding("ca", files.ca, f"expired on {latest}"))
    with contextlib.suppress(OSError):
        expiry = _decode_certificate(files.certificate)["notAfter"] if files.certificate else ""
        if expiry and _is_past(expiry):
            found.append(_finding("certificate", files.certificate, f"expired on {expiry}"))
    return _placed(found, at)


def problems(files: TlsFiles, at: str = OF_KAFKA) -> list[Finding]:
    """What is wrong with the files at any time; a secret is in none of it."""
    contents: dict[str, bytes] = {}
    found: list[Finding] = []
    for key, file in _files(files):
        try:
            contents[key] = read_regular(Path(file), MAX_BYTES)
        except OSError as error:
            found.append(_finding(key, file, f"cannot be read: {why_refused(Path(file), error, reads=True)}"))
    bad = {"ca": [*_ca(files, contents)], "certificate": [*_certificate(files, contents)]}
    bad["key"] = [*_key(files, contents)]
    beside = next((key for key in ("certificate", "ca") if key in contents and not bad[key]), None)
    if "key" in contents and not bad["key"] and beside is not None:
        bad["key"] = [*_opened(files, contents, beside)]
    writable = [finding for is_writable, finding in _exposures(files) if is_writable]
    return _placed([*found, *chain.from_iterable(bad.values()), *writable], at)


def exposed(files: TlsFiles, at: str = OF_KAFKA) -> list[Finding]:
    """Private keys that others may read. What others may write is among the `problems`."""
    return _placed([finding for is_writable, finding in _exposures(files) if not is_writable], at)


def _placed(findings: list[Finding], at: str) -> list[Finding]:
    return [each._replace(path=f"{at}.{each.path}") for each in findings]


def _exposures(files: TlsFiles) -> Iterator[tuple[bool, Finding]]:
    """Of files that can be read. Whoever writes a certificate or a ca decides whom the node trusts."""
    for key, file in _files(files):
        with contextlib.suppress(OSError):
            path = Path(file)
            seen = exposure(path, is_secret=PRIVATE_KEY.search(read_regular(path, MAX_BYTES)) is not None)
            if seen is not None:
                yield seen.is_writable, Finding(key, seen.message, seen.mended)


def _files(files: TlsFiles) -> Iterator[tuple[str, str]]:
    for key, file in (("ca", files.ca), ("certificate", files.certificate), ("key", files.key)):
        if file is not None:
            yield key, file


def _ca(files: TlsFiles, contents: dict[str, bytes]) -> Iterator[Finding]:
    if "ca" not in contents:
        return
    if not CERTIFICATE.search(contents["ca"]):  # a revocation list alone would do for OpenSSL
        yield _another_kind("ca", files.ca, contents["ca"])
        return
    try:
        ssl.create_default_context(cafile=files.ca)
    except ssl.SSLError as error:
        yield _finding("ca", files.ca, f"is damaged ({_reason(error)})")


def _certificate(files: TlsFiles, contents: dict[str, bytes]) -> Iterator[Finding]:
    if "certificate" not in contents:
        return
    if not CERTIFICATE.search(contents["certificate"]):
        yield _another_kind("certificate", files.certificate, contents["certificate"])
        return
    try:
        _decode_certificate(files.certificate)
    except ssl.SSLError as error:
        yield _finding("certificate", files.certificate, f"is damaged ({_reason(error)})")


def _key(files: TlsFiles, contents: dict[str, bytes]) -> Iterator[Finding]:
    if "key" not in contents:
        return
    if not PRIVATE_KEY.search(contents["key"]):
        yield _another_kind("key", files.key, contents["key"])
    elif b"ENCRYPTED" in contents["key"] and not files.key_password:
        suggestion = 'give its password as key_password: "${cred:NAME}"'
        yield _finding("key", files.key, "is encrypted, and there is no key_password", suggestion)


def _opened(files: TlsFiles, contents: dict[str, bytes], beside: str) -> Iterator[Finding]:
    """What is wrong with a key in PEM. OpenSSL opens it `beside` a certificate: its own, or, to know that much, any."""
    certificate = files.certificate if beside == "certificate" else files.ca
    assert certificate is not None
    try:  # with a password in any case: without one OpenSSL would ask for it on the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, files.key, files.key_password or "")
    except OSError as error:
        reason = _reason(error)
        if reason in _OF_ANOTHER_KEY:
            if beside == "certificate":
                several = len(CERTIFICATE.findall(contents[beside])) > 1
                suggestion = "the node's own certificate must be the first one there" if several else ""
                yield _finding("key", files.key, f"is the key of another certificate than {certificate}", suggestion)
        elif _REFUSES_CERTIFICATE.match(reason):
            if beside == "certificate":
                yield _finding("certificate", certificate, f"is refused by OpenSSL ({reason})")
        elif b"ENCRYPTED" in contents["key"]:
            yield _finding("key_password", None, f"does not decrypt {files.key}")
        else:
            yield _finding("key", files.key, f"is damaged ({reason})")


def _another_kind(key: str, file: str | None, content: bytes) -> Finding:
    wanted = "private key" if key == "key" else "certificate"
    kind = tls_kinds.kind_of(content)
    if kind is None:
        return _finding(key, file, f"holds no {wanted} in PEM" if content.strip() else "is empty")
    return _finding(key, file, f"holds {kind.name}, not a {wanted} in PEM", tls_kinds.hint(kind, key, str(file)))


def _finding(key: str, file: str | None, message: str, suggestion: str = "") -> Finding:
    return Finding(key, f"{file} {message}" if file else message, suggestion)


def _reason(error: OSError) -> str:
    """OpenSSL's word for it; not all errors of ssl have one."""
    return str(getattr(error, "reason", None) or error)


def _is_past(date: str) -> bool:
    """Whether a certificate's date is over. That it has not come yet is not judged: a clock may start in 1970."""
    return ssl.cert_time_to_seconds(date) < time.time()
