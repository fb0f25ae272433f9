"""The command that is told for a file of another kind makes PEM of it that can be used."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edged.adapters import tls
from edged.domain.topology import Security
from edged.domain.validation.finding import Finding
from tests.support.requirements import require

FILES = Path(__file__).parent / "tls_files"
GOOD = Security("SSL", ca="ca.pem", certificate="node.pem", key="node.key")
OF_KEY_STORE, OF_JAVA = "garden", "garden1"
"""Passwords that are asked for; of a store of Java three times: of the new one, again, and of the old one."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for tool in ("openssl", "keytool", "ssh-keygen"):
        if shutil.which(tool) is None:
            require(tool)
    for file in FILES.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copied(name: str) -> str:
    """A file of another kind, under a name that a shell would take apart."""
    Path(f"of the node {name}").write_bytes((FILES / "kinds" / name).read_bytes())
    return f"of the node {name}"


def named(key: str, file: str) -> list[Finding]:
    changes: dict[str, Any] = {key: file}
    return tls.problems(replace(GOOD, **changes))


def obey(key: str, name: str, password: str = "") -> None:
    suggestions = [each.suggestion for each in named(key, name) if each.path.endswith(key)]
    command = suggestions[0].partition(", then")[0].rpartition("it: ")[2]
    answers = f"{password}\n" * 3
    with_stdin = command.replace("pkcs12 ", "pkcs12 -password stdin ").replace("pkcs8 ", "pkcs8 -passin stdin ")
    subprocess.run(["sh", "-c", with_stdin], check=True, input=answers, text=True, start_new_session=True)


@pytest.mark.parametrize(
    ("key", "kind", "password"),
    [
        ("ca", "trust.p12", OF_JAVA),
        ("ca", "node.p12", OF_KEY_STORE),
        ("certificate", "node.p12", OF_KEY_STORE),
        ("key", "node.p12", OF_KEY_STORE),
        ("certificate", "node.p7b", ""),
        ("certificate", "node.der.p7b", ""),
        ("certificate", "node.der", ""),
        ("key", "node.key.der", ""),
        ("key", "enc.der", OF_KEY_STORE),
    ],
)
def test_the_command_makes_what_is_used(key, kind, password):
    obey(key, copied(kind), password)
    assert named(key, f"{key}.pem") == []


def test_of_a_java_key_store_comes_one_of_pkcs12_and_of_that_what_is_used():
    obey("key", copied("node.jks"), OF_JAVA)
    obey("key", "of the node node.jks.p12", OF_JAVA)
    assert named("key", "key.pem") == []


def test_an_openssh_key_becomes_one_in_pem():
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", "of ssh"], check=True)
    obey("key", "of ssh")
    (finding,) = named("key", "key.pem")
    assert finding.message == "key.pem is the key of another certificate than node.pem"
