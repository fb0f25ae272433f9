"""What people hand in for a certificate or a key in PEM, told by how it begins; and the command that makes PEM of it.

Does not tell whether a file is whole. See also: `adapters.tls`, which opens those that are PEM.
"""

import re
import shlex
from typing import NamedTuple

CERTIFICATE = re.compile(rb"^-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----", re.MULTILINE)
PRIVATE_KEY = re.compile(rb"^-----BEGIN (?:(?:RSA|EC|DSA|ENCRYPTED) )?PRIVATE KEY-----", re.MULTILINE)


class Kind(NamedTuple):
    """`begins`: how such a file begins. `hints`: what to do where it is named as `ca`, `certificate` or `key`."""

    name: str
    begins: re.Pattern[bytes]
    hints: dict[str, str]


def kind_of(content: bytes) -> Kind | None:
    """The first kind that begins so; None when it is none that is known."""
    return next((kind for kind in _KINDS if kind.begins.search(content)), None)


def hint(kind: Kind, key: str, file: str) -> str:
    """What to do with a file of this kind that the topology names as `key`; "" when another one is needed."""
    return kind.hints.get(key, "").replace("FILE", shlex.quote(file))


def _kind(name: str, begins: bytes, *, anyway: str = "", certificates: str = "", **hints: str) -> Kind:
    """`anyway`: the hint wherever it is named; `certificates`: the command for `ca` and `certificate`, but its end."""
    given = dict.fromkeys(("ca", "certificate", "key"), anyway) if anyway else {}
    if certificates:
        given = {role: f"{certificates} -out {role}.pem" for role in ("ca", "certificate")}
    return Kind(name, re.compile(begins, re.MULTILINE | re.DOTALL | re.IGNORECASE), given | hints)


def _pem(label: bytes) -> bytes:
    return rb"^-----BEGIN " + label + rb"-----"


def _der(*inside: bytes) -> bytes:
    return rb"\A" + _SEQUENCE + b"".join(inside)


# the tags of ASN.1 (X.690), each with its length
_SEQUENCE = rb"\x30(?:[\x00-\x80]|\x81.|\x82..|\x83...)"
_ZERO, _ZERO_OR_ONE, _THREE = rb"\x02\x01\x00", rb"\x02\x01[\x00\x01]", rb"\x02\x01\x03"
_VERSION_OR_SERIAL, _SET = rb"[\xa0\x02]", rb"\x31"
_PKCS5, _PKCS7 = rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05", rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07"
_OBJECT = rb"\x06"

_OF_REQUEST = "the certificate is the authority's answer to it"
_OF_PUBLIC = "the private key is what it was made from"
_OF_OPENSSH = "if the certificate is for it: cp FILE key.pem && ssh-keygen -p -m PKCS8 -f key.pem"
_OF_PUTTY = "if the certificate is for it: puttygen FILE -O private-openssh -o key.pem"
_OF_JAVA = "keytool -importkeystore -srckeystore FILE -destkeystore FILE.p12 -deststoretype PKCS12, then name that"

_KINDS = (
    _kind("a certificate", CERTIFICATE.pattern),
    _kind("a private key", PRIVATE_KEY.pattern),
    _kind("a certificate signing request", _pem(rb"(NEW )?CERTIFICATE REQUEST"), certificate=_OF_REQUEST),
    _kind("a public key", _pem(rb"(RSA )?PUBLIC KEY"), key=_OF_PUBLIC),
    _kind("a revocation list", _pem(rb"X509 CRL")),
    _kind("a PKCS#7 bundle", _pem(rb"(PKCS7|CMS)"), certificates="openssl pkcs7 -print_certs -in FILE"),
    _kind("an OpenSSH private key", _pem(rb"OPENSSH PRIVATE KEY"), key=_OF_OPENSSH),
    _kind("an SSH public key", rb"^(ssh-\w+|ecdsa-sha2-\S+) AAAA|^---- BEGIN SSH2 ", key=_OF_PUBLIC),
    _kind("a PuTTY key", rb"^PuTTY-User-Key-File-", key=_OF_PUTTY),
    _kind("what is PGP's", _pem(rb"PGP [A-Z ]+")),
    _kind("parameters alone", _pem(rb"[A-Z0-9. ]+ PARAMETERS")),
    _kind("PEM in indented lines", rb"^[ \t]+-----BEGIN ", anyway="let no line begin with blanks"),
    _kind("text in UTF-16", rb"\A(\xff\xfe|\xfe\xff)", anyway="iconv -f UTF-16 -t UTF-8 FILE -o FILE.pem"),
    _kind("base64 without PEM's first line", rb"\A\s*MI[A-Za-z0-9+/=\s]+\Z", anyway="-----BEGIN …----- is missing"),
    _kind("a web page", rb"\A\s*<(!doctype|html|\?xml)"),
    _kind(
        "a PKCS#12 key store",
        _der(_THREE),
        ca="openssl pkcs12 -in FILE -nokeys -cacerts -out ca.pem",
        certificate="openssl pkcs12 -in FILE -nokeys -out certificate.pem",
        key="openssl pkcs12 -in FILE -nocerts -nodes -out key.pem",
    ),
    _kind("a Java key store", rb"\A(\xfe\xed\xfe\xed|\xce\xce\xce\xce)", anyway=_OF_JAVA),
    _kind("a PKCS#7 bundle", _der(_PKCS7), certificates="openssl pkcs7 -inform der -print_certs -in FILE"),
    _kind("a certificate signing request", _der(_SEQUENCE, _ZERO, _SEQUENCE, _SET), certificate=_OF_REQUEST),
    _kind(
        "a certificate in DER", _der(_SEQUENCE, _VERSION_OR_SERIAL), certificates="openssl x509 -inform der -in FILE"
    ),
    _kind("a private key in DER", _der(_ZERO_OR_ONE), key="openssl pkey -inform der -in FILE -out key.pem"),
    _kind("a private key in DER", _der(_SEQUENCE, _PKCS5), key="openssl pkcs8 -inform der -in FILE -out key.pem"),
    _kind("a public key", _der(_SEQUENCE, _OBJECT), key=_OF_PUBLIC),
)
