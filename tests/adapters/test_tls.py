"""The files of `kafka.security`: each that cannot be used is told by its key, its path and the reason."""

import os
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from edged.adapters import tls
from edged.adapters.kafka.security import client_options
from edged.domain.topology import Kafka, Security, Tls
from edged.errors import ConfigError

FILES = Path(__file__).parent / "tls_files"
"""An authority, and a node's certificate of it: valid until 2126, with the key plain and encrypted by "garden"."""
PASSWORD = "garden"  # noqa: S105 - of a file beside this one
GOOD = Security("SSL", ca="ca.pem", certificate="node.pem", key="node.key")
YEAR_2242 = 2.0**33


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for file in [each for each in FILES.rglob("*") if each.is_file()]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "text").write_text("no certificate\n")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(3 << 30)
    (tmp_path / "torn.pem").write_text((FILES / "node.pem").read_text().replace("M", "N", 3))
    (tmp_path / "chain.pem").write_text((FILES / "ca.pem").read_text() + (FILES / "node.pem").read_text())
    (tmp_path / "utf16.pem").write_text((FILES / "node.pem").read_text(), "utf-16")
    (tmp_path / "indented.pem").write_text((FILES / "node.pem").read_text().replace("-----BEGIN", "  -----BEGIN"))
    (tmp_path / "bare.pem").write_text("".join((FILES / "node.pem").read_text().splitlines()[1:-1]))
    (tmp_path / "torn.key").write_text((FILES / "node.key").read_text().replace("M", "N", 3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(security):
    return [f"{each.path.removeprefix('kafka.security.')}: {each.message}" for each in tls.problems(security)]


def test_files_towards_an_mqtt_broker_are_judged_alike_and_told_by_their_own_path():
    files = Tls(GOOD.ca, GOOD.certificate, "nowhere.pem")
    (finding,) = tls.problems(files, "mqtt.tls")
    assert finding.path == "mqtt.tls.key"
    with pytest.raises(tls.TlsFilesError, match=r"mqtt\.tls\.key: nowhere\.pem cannot be read"):
        tls.context(files, "mqtt.tls")
    assert tls.context(Tls(GOOD.ca), "mqtt.tls").check_hostname


@pytest.mark.parametrize(
    "security",
    [
        GOOD,
        replace(GOOD, ca=None),
        replace(GOOD, certificate=None, key=None),
        replace(GOOD, key="node-encrypted.key", key_password=PASSWORD),
        replace(GOOD, key="node-encrypted-pkcs1.key", key_password=PASSWORD),
        replace(GOOD, key_password=PASSWORD),  # a password that is not needed
    ],
)
def test_files_that_fit_are_used(security):
    assert said(security) == []
    assert tls.context(security).check_hostname


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "cannot be read: No such file or directory"),
        ("folder", "cannot be read: Is a directory"),
        ("pipe", "cannot be read: it is no regular file but a FIFO (named pipe), which is never read"),
        ("sparse", "cannot be read: it has 3221225472 bytes; at most 4194304 are read"),
    ],
)
@pytest.mark.parametrize("key", ["ca", "certificate", "key"])
def test_a_file_that_cannot_be_read_is_named(key, name, reason):
    assert said(replace(GOOD, **{key: name})) == [f"{key}: {name} {reason}"]


def test_a_file_without_the_right_to_read_is_named(monkeypatch):
    def refuse(path, _max_bytes):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("edged.adapters.tls.read_regular", refuse)
    assert said(replace(GOOD, ca=None)) == [
        "certificate: node.pem cannot be read: Permission denied",
        "key: node.key cannot be read: Permission denied",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ca": "text"}, "ca: text holds no certificate in PEM"),
        ({"ca": "empty"}, "ca: empty is empty"),
        ({"ca": "torn.pem"}, "ca: torn.pem is damaged ("),
        ({"ca": "node.key"}, "ca: node.key holds a private key, not a certificate"),
        ({"certificate": "text"}, "certificate: text holds no certificate in PEM"),
        ({"certificate": "torn.pem"}, "certificate: torn.pem is damaged ("),
        ({"certificate": "node.key"}, "certificate: node.key holds a private key, not a certificate"),
        ({"certificate": "ca.pem"}, "key: node.key is the key of another certificate than ca.pem"),
        ({"certificate": "chain.pem"}, "key: node.key is the key of another certificate than chain.pem"),
        ({"key": "text"}, "key: text holds no private key in PEM"),
        ({"key": "torn.key"}, "key: torn.key is damaged ("),
        ({"key": "node.pem"}, "key: node.pem holds a certificate, not a private key"),
        ({"key": "other.key"}, "key: other.key is the key of another certificate than node.pem"),
        ({"key": "node-encrypted.key"}, "key: node-encrypted.key is encrypted, and there is no key_password"),
        ({"key": "node-encrypted-pkcs1.key"}, "key: node-encrypted-pkcs1.key is encrypted, and there is no key"),
        ({"key": "node-encrypted.key", "key_password": "hedge"}, "key_password: does not decrypt node-encrypted.key"),
    ],
    ids=str,
)
def test_what_a_file_holds_is_told(changes, expected):
    (message,) = said(replace(GOOD, **changes))
    assert message.startswith(expected)
    assert "hedge" not in message


KINDS = {
    "node.p12": "a PKCS#12 key store",
    "trust.p12": "a PKCS#12 key store",
    "node.jks": "a Java key store",
    "node.csr": "a certificate signing request",
    "csr.der": "a certificate signing request",
    "public.pem": "a public key",
    "pub.der": "a public key",
    "openssh": "an OpenSSH private key",
    "openssh.pub": "an SSH public key",
    "putty.ppk": "a PuTTY key",
    "node.p7b": "a PKCS#7 bundle",
    "node.der.p7b": "a PKCS#7 bundle",
    "list.crl": "a revocation list",
    "parameters.pem": "parameters alone",
    "page.html": "a web page",
    "node.der": "a certificate in DER",
    "node.key.der": "a private key in DER",
    "enc.der": "a private key in DER",
    "utf16.pem": "text in UTF-16",
    "indented.pem": "PEM in indented lines",
    "bare.pem": "base64 without PEM's first line",
}


@pytest.mark.parametrize("key", ["ca", "certificate", "key"])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_another_kind_is_told_by_that_kind(key, name):
    wanted = "private key" if key == "key" else "certificate"
    assert said(replace(GOOD, **{key: name})) == [f"{key}: {name} holds {KINDS[name]}, not a {wanted} in PEM"]


def test_every_kind_that_is_kept_here_is_told():
    assert {each.name for each in (FILES / "kinds").iterdir()} <= KINDS.keys()


def test_certificate_and_key_that_are_swapped_are_each_told():
    assert said(replace(GOOD, certificate="node.key", key="node.pem")) == [
        "certificate: node.key holds a private key, not a certificate in PEM",
        "key: node.pem holds a certificate, not a private key in PEM",
    ]


def test_the_order_of_a_chain_is_told_where_its_first_certificate_has_another_key():
    (finding,) = tls.problems(replace(GOOD, certificate="chain.pem"))
    assert finding.suggestion == "the node's own certificate must be the first one there"


@pytest.mark.parametrize("ca", ["nowhere", "text", "node.p12"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"key": "other.key"}, "key: other.key is the key of another certificate than node.pem"),
        ({"key": "torn.key"}, "key: torn.key is damaged ("),
        ({"key": "node-encrypted.key", "key_password": "hedge"}, "key_password: does not decrypt node-encrypted.key"),
    ],
    ids=str,
)
def test_a_ca_that_cannot_be_used_does_not_hide_what_is_wrong_with_the_key(ca, changes, expected):
    of_ca, of_key = said(replace(GOOD, ca=ca, **changes))
    assert of_ca.startswith(f"ca: {ca} ")
    assert of_key.startswith(expected)


@pytest.mark.parametrize("certificate", ["nowhere", "torn.pem", "node.csr"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"key": "torn.key"}, "key: torn.key is damaged ("),
        ({"key": "node-encrypted.key", "key_password": "hedge"}, "key_password: does not decrypt node-encrypted.key"),
    ],
    ids=str,
)
def test_a_certificate_that_cannot_be_used_does_not_hide_that_the_key_cannot(certificate, changes, expected):
    of_certificate, of_key = said(replace(GOOD, certificate=certificate, **changes))
    assert of_certificate.startswith(f"certificate: {certificate} ")
    assert of_key.startswith(expected)


@pytest.mark.parametrize("certificate", ["nowhere", "torn.pem", "node.csr"])
def test_nothing_is_said_of_a_key_that_may_well_be_good(certificate):
    assert [each.partition(":")[0] for each in said(replace(GOOD, certificate=certificate))] == ["certificate"]


@pytest.mark.parametrize(
    ("key", "mode", "verb"),
    [
        ("key", 0o600, ""),
        ("key", 0o644, "read"),
        ("key", 0o646, "written"),
        ("certificate", 0o644, ""),
        ("certificate", 0o646, "written"),
        ("ca", 0o644, ""),
        ("ca", 0o666, "written"),
    ],
)
def test_a_key_that_others_may_read_is_warned_of_and_a_file_that_they_may_write_is_refused(key, mode, verb):
    for file in ("ca.pem", "node.pem", "node.key"):
        Path(file).chmod(0o600)
    file = getattr(GOOD, key)
    Path(file).chmod(mode)
    warned, refused = tls.exposed(GOOD), tls.problems(GOOD)
    found = {"": [], "read": warned, "written": refused}[verb]
    assert [*warned, *refused] == found
    if verb:
        assert found[0].path == f"kafka.security.{key}"
        assert found[0].message.startswith(f"{file} may be {verb} by others (-rw")
        assert found[0].suggestion == f"chmod {'600' if key == 'key' else 'go-w'} {file}"


def test_a_key_in_the_certificates_file_is_a_secret_too():
    Path("both.pem").write_bytes(Path("node.pem").read_bytes() + Path("node.key").read_bytes())
    both = replace(GOOD, certificate="both.pem", key="both.pem")
    assert {each.path for each in tls.exposed(both)} == {"kafka.security.certificate", "kafka.security.key"}


def test_a_file_that_cannot_be_used_does_not_hide_that_another_one_has_expired(monkeypatch):
    monkeypatch.setattr("edged.adapters.tls.time.time", lambda: YEAR_2242)
    assert [each.path for each in tls.expired(replace(GOOD, ca="text"))] == ["kafka.security.certificate"]
    assert [each.path for each in tls.expired(replace(GOOD, certificate="nowhere"))] == ["kafka.security.ca"]


def test_a_certificate_whose_time_is_over_is_told(monkeypatch):
    monkeypatch.setattr("edged.adapters.tls.time.time", lambda: YEAR_2242)
    assert [f"{each.path.rpartition('.')[2]}: {each.message}" for each in tls.expired(GOOD)] == [
        "ca: ca.pem expired on Nov  6 04:48:41 2126 GMT",
        "certificate: node.pem expired on Nov  6 04:48:42 2126 GMT",
    ]


@pytest.mark.parametrize("now", [0.0, YEAR_2242])
def test_a_clock_that_is_wrong_refuses_no_certificate(monkeypatch, now):
    """The handshake does, as long as it is wrong."""
    monkeypatch.setattr("edged.adapters.tls.time.time", lambda: now)
    assert said(GOOD) == []
    tls.context(GOOD)


def test_all_problems_are_told_at_once_and_end_a_command():
    security = replace(GOOD, ca="text", certificate="nowhere", key="node.pem")
    with pytest.raises(ConfigError) as caught:
        client_options(Kafka(("broker.lan:9093",), security), "edged")
    assert [problem.path.rpartition(".")[2] for problem in caught.value.problems] == ["certificate", "ca", "key"]


def test_a_file_that_goes_bad_later_fails_one_connection_and_not_the_next():
    made = client_options(Kafka(("broker.lan:9093",), GOOD), "edged")["ssl_context"]
    ends = ssl.MemoryBIO(), ssl.MemoryBIO()
    good = Path("node.key").read_bytes()

    Path("node.key").write_bytes(good[:100])
    with pytest.raises(OSError, match=r"kafka\.security\.key: node\.key is damaged"):
        made.wrap_bio(*ends, server_hostname="broker.lan")

    Path("node.key").write_bytes(good)
    assert made.wrap_bio(*ends, server_hostname="broker.lan")
