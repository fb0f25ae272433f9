"""Apache Kafka as a stranger runs it: TLS, logins, and an authorizer that grants nothing by itself.

An administrator reaches it in plaintext, as its super user. Nodes log in over SASL_SSL with their names and
SCRAM-SHA-512, or over SSL with a certificate whose common name is theirs; they may do what `run` has been given, as
`edged topics` prints it, and nothing more. New topics are to have three replicas, of which there are no brokers, unless
one asks for fewer; at the port `lost` the broker says that its address is one that nobody knows.
"""

import argparse
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from edged.domain.topology import Kafka, Security
from tests.support.brokers import Apache, free_port
from tests.support.requirements import require

PASSWORD = "a-secret-of-the-greenhouse"  # noqa: S105 - guards nothing
LOST_HOST = "broker.invalid"
MECHANISM: Final = "SCRAM-SHA-512"


class Authority:
    """A certificate authority in a folder, by openssl."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            require("no openssl on the PATH, for certificates")
        self.folder = folder
        self.file = folder / "ca.pem"

    def create(self) -> None:
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority"),
            *("-keyout", "ca.key", "-out", "ca.pem"),
        )

    def issue(self, name: str, into: Path, *, days: int = 2, host: str = "") -> tuple[Path, Path]:
        """A new certificate for this common name, and its key."""
        certificate, key, request = into / f"{name}.pem", into / f"{name}.key", into / f"{name}.csr"
        self._openssl(
            *("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", str(key), "-out", str(request)),
        )
        extension = into / f"{name}.ext"
        extension.write_text(f"subjectAltName=IP:{host}\n" if host else "basicConstraints=CA:FALSE\n")
        self._openssl(
            *("x509", "-req", "-in", str(request), "-CA", "ca.pem", "-CAkey", "ca.key", "-days", str(days)),
            *("-set_serial", str(abs(hash(request)) % 10**9), "-extfile", str(extension), "-out", str(certificate)),
        )
        return certificate, key

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


class SecuredApache(Apache):
    """Apache Kafka with StandardAuthorizer, and with the listeners SASL_SSL and SSL beside the administrator's."""

    def __init__(self) -> None:
        self.sasl_port, self.tls_port, self.lost_port = free_port(), free_port(), free_port()
        super().__init__(listeners={"SASL_SSL": self.sasl_port, "SSL": self.tls_port})
        authority = Authority(self.folder)
        authority.create()
        certificate, key = authority.issue("broker", self.folder, host="127.0.0.1")
        keystore = self.folder / "keystore.pem"
        keystore.write_text(key.read_text() + certificate.read_text())
        own = {"PLAINTEXT": self.port, "SASL_SSL": self.sasl_port, "SSL": self.tls_port}
        self.settings = {
            "listeners": ",".join(
                f"{name}://127.0.0.1:{port}"
                for name, port in {**own, "CONTROLLER": self.controller_port, "LOST": self.lost_port}.items()
            ),
            "advertised.listeners": ",".join(
                [*(f"{name}://127.0.0.1:{port}" for name, port in own.items()), f"LOST://{LOST_HOST}:9092"]
            ),
            "listener.security.protocol.map": (
                "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LOST:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL"
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "default.replication.factor": "3",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.file),
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
            "sasl.enabled.mechanisms": MECHANISM,
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
        }

    def about(self) -> Mapping[str, str]:
        return {
            **super().about(),
            "sasl_port": str(self.sasl_port),
            "tls_port": str(self.tls_port),
            "lost_port": str(self.lost_port),
            "folder": str(self.folder),
        }


class SecuredKafka:
    """A running one, for tests: its addresses, and what its administrator does."""

    def __init__(self, about: Mapping[str, str]) -> None:
        self.admin_kafka = Kafka((f"127.0.0.1:{about['port']}",))
        self.sasl = f"127.0.0.1:{about['sasl_port']}"
        self.lost = f"127.0.0.1:{about['lost_port']}"
        self.tls = f"127.0.0.1:{about['tls_port']}"
        self.authority = Authority(Path(about["folder"]))
        self._admin = AdminClient({"bootstrap.servers": self.admin_kafka.bootstrap[0], "log_level": 0})

    def kafka(self, user: str, password: str = PASSWORD) -> Kafka:
        """How the user logs in."""
        ca = str(self.authority.file)
        return Kafka((self.sasl,), Security("SASL_SSL", MECHANISM, user, password, ca=ca))

    def with_certificate(self, certificate: Path, key: Path) -> Kafka:
        """How whom the certificate names connects."""
        ca = str(self.authority.file)
        return Kafka((self.tls,), Security("SSL", ca=ca, certificate=str(certificate), key=str(key)))

    def section(self) -> str:
        """The value of a topology's key `kafka`, the same for all nodes."""
        security = ", ".join(self.security().splitlines())
        return f'{{bootstrap: ["{self.sasl}"], security: {{{security}}}}}'

    def security(self) -> str:
        """What `kafka.security` holds, the same for all nodes."""
        return (
            f'protocol: SASL_SSL\nmechanism: {MECHANISM}\nusername: "${{NODE}}"\npassword: "${{cred:kafka-password}}"\n'
            f'ca: "{self.authority.file}"\n'
        )

    def environment(self, node: str) -> dict[str, str]:
        """What the node's unit would have: its name, and its credentials."""
        folder = self.authority.folder / f"credentials-{node}"
        folder.mkdir(exist_ok=True)
        (folder / "kafka-password").write_text(PASSWORD)
        (folder / "kafka-password").chmod(0o600)
        return {"NODE": node, "CREDENTIALS_DIRECTORY": str(folder)}

    def add_users(self, names: Iterable[str], password: str = PASSWORD) -> None:
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        users: list[Any] = [UserScramCredentialUpsertion(name, info, password.encode()) for name in names]
        for done in self._admin.alter_user_scram_credentials(users).values():
            done.result()

    def run(self, commands: str) -> None:
        """Do what commands of Kafka's tools would do: those that `edged topics` prints, and no others."""
        parsed = [shlex.split(line) for line in commands.splitlines() if line and not line.startswith("#")]
        topics = [_topic(words[1:]) for words in parsed if words[0] == "kafka-topics.sh"]
        acls = [acl for words in parsed if words[0] == "kafka-acls.sh" for acl in _acls(words[1:])]
        assert {words[0] for words in parsed} <= {"kafka-topics.sh", "kafka-acls.sh"}
        for topic in self._admin.create_topics(topics).values() if topics else ():
            topic.result()
        for acl in self._admin.create_acls(acls).values() if acls else ():
            acl.result()
        of: Any = AclBindingFilter  # its arguments may all be None, unlike its types say
        everybodys = of(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
        )
        while not set(acls) <= set(self._admin.describe_acls(everybodys).result()):
            pass  # the controller has them; the broker takes note of them a little later

    def revoke(self, principal: str, operation: str | None = None, name: str | None = None) -> None:
        """Take rights from a user: to one operation, one topic or group, or all."""
        which = AclOperation.ANY if operation is None else _OPERATIONS[operation]
        of: Any = AclBindingFilter  # its arguments may all be None, unlike its types say
        anywhere = (ResourceType.ANY, name, ResourcePatternType.ANY)
        found = of(*anywhere, f"User:{principal}", None, which, AclPermissionType.ANY)
        assert self._admin.delete_acls([found])[found].result()


_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Delete": AclOperation.DELETE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


def _parser(*flags: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--bootstrap-server", required=True)
    for flag in flags:
        parser.add_argument(flag, action="store_true", required=True)
    return parser


def _topic(words: list[str]) -> NewTopic:
    parser = _parser("--create", "--if-not-exists")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--config", action="append", default=[])
    given = parser.parse_args(words)
    settings = dict(pair.split("=", 1) for pair in given.config)
    return NewTopic(given.topic, given.partitions, 1, config=settings)


def _acls(words: list[str]) -> list[AclBinding]:
    parser = _parser("--add")
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--operation", action="append", choices=list(_OPERATIONS), required=True)
    resource = parser.add_mutually_exclusive_group(required=True)
    resource.add_argument("--topic")
    resource.add_argument("--group")
    given = parser.parse_args(words)
    kind, name = (ResourceType.TOPIC, given.topic) if given.topic else (ResourceType.GROUP, given.group)
    return [
        AclBinding(
            kind, name, ResourcePatternType.LITERAL, given.allow_principal, "*", _OPERATIONS[each],
            AclPermissionType.ALLOW,
        )
        for each in given.operation
    ]  # fmt: skip
