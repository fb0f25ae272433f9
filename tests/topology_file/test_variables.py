"""Variables and credentials: where values come from, and that no message shows them."""

import os
from pathlib import Path

import pytest

from edged import topology_file
from edged.errors import ConfigError
from edged.topology_file.variables import MissingError, VariableError, Variables

SECURE = """\
schema: 1
site: ${SITE:-lab}
kafka:
  bootstrap: ["${BROKER}:9092"]
  security: {protocol: SASL_SSL, mechanism: PLAIN, username: "${NODE}", password: PASSWORD}
streams: {digits: {sample: {shape: [4], dtype: float32}, labels: [a, b]}}
iot: []
edges: [{name: pi-a}]
archive: [{name: vault, url: "file:///srv"}]
"""
HIDDEN = "hunter2-correct-horse"
ENVIRONMENT = {"BROKER": "broker.lan", "NODE": "pi-a"}


@pytest.fixture
def inspect(tmp_path):
    def inspect_text(text, environment=ENVIRONMENT):
        path = tmp_path / "topology.yaml"
        path.write_text(text)
        return topology_file.inspect(path, environment)

    return inspect_text


def whole_text(error):
    return repr([(str(problem), problem.source) for problem in error.problems])


def test_variables_and_defaults_are_expanded(inspect):
    topology = inspect(SECURE.replace("PASSWORD", '"${PW}"'), {**ENVIRONMENT, "PW": HIDDEN}).topology

    assert topology.site == "lab"
    assert topology.kafka.bootstrap == ("broker.lan:9092",)
    assert topology.kafka.security.password == HIDDEN
    assert HIDDEN not in repr(topology)


@pytest.mark.parametrize("written", [f"{HIDDEN}\n", f"\ufeff{HIDDEN}\r\n", HIDDEN], ids=["unix", "windows", "bare"])
def test_a_credential_is_read_from_the_folder_that_systemd_names(inspect, tmp_path, written):
    (tmp_path / "kafka-password").write_bytes(written.encode())
    environment = {**ENVIRONMENT, "CREDENTIALS_DIRECTORY": str(tmp_path)}

    topology = inspect(SECURE.replace("PASSWORD", '"${cred:kafka-password}"'), environment).topology

    assert topology.kafka.security.password == HIDDEN


OVER_MQTT = """\
mqtt: {broker: "${MQTT_BROKER}", username: "${NODE}", password: "${cred:mqtt}", tls: {ca: "${CA}"}}
streams: {digits: {sample: {shape: [4], dtype: float32}, labels: [a, b]}}
iot: [{name: cam, edge: pi-a, stream: digits, transport: mqtt}]
"""


def over_mqtt(tmp_path):
    path = tmp_path / "topology.yaml"
    text = (
        SECURE.replace("PASSWORD", '"${PW}"')
        .replace("iot: []\n", "")
        .replace("name: pi-a}", "name: pi-a}, {name: pi-b}")
    )
    path.write_text(
        text.replace("streams: {digits: {sample: {shape: [4], dtype: float32}, labels: [a, b]}}\n", OVER_MQTT)
    )
    return path


@pytest.mark.parametrize("node", ["pi-a", "cam", None])
def test_who_speaks_mqtt_needs_what_its_section_refers_to(tmp_path, node):
    """None: all of them do."""
    path, environment = over_mqtt(tmp_path), {**ENVIRONMENT, "PW": HIDDEN}
    with pytest.raises(ConfigError) as raised:
        topology_file.inspect(path, environment, node=node)
    missing = ["mqtt.broker", "mqtt.password", "mqtt.tls.ca"]
    assert [each.path for each in raised.value.problems] == missing

    lenient = topology_file.inspect(path, environment, node=node, lenient=True).warnings
    assert [each.path for each in lenient if each.message.endswith("; the node will need it")] == missing


def test_a_credential_that_is_not_here_hides_no_mistake_beside_it(tmp_path):
    """What is checked on another machine is not valid until a node finds that it is not."""
    path = over_mqtt(tmp_path)
    text = path.read_text()
    path.write_text(text.replace('tls: {ca: "${CA}"}', "window: 1024, packet_bytes: 1MiB"))
    with pytest.raises(ConfigError) as raised:
        topology_file.inspect(path, ENVIRONMENT, lenient=True)
    assert [each.path for each in raised.value.problems] == ["edges[0].memory_limit"]

    path.write_text(text.replace(", transport: mqtt", ""))
    warned = {each.path for each in topology_file.inspect(path, ENVIRONMENT, lenient=True).warnings}
    assert {"mqtt", "mqtt.password"} <= warned


def test_nothing_is_said_of_a_value_that_is_not_here(tmp_path):
    """Whether its Kafka is this machine is not known."""
    path = tmp_path / "topology.yaml"
    path.write_text(SECURE.replace("SASL_SSL, mechanism: PLAIN", "SASL_PLAINTEXT, mechanism: PLAIN"))
    warned = topology_file.inspect(path, {"NODE": "pi-a"}, lenient=True).warnings
    assert "kafka.bootstrap[0]" in {each.path for each in warned}
    assert "kafka.bootstrap" not in {each.path for each in warned}


@pytest.mark.parametrize("node", ["pi-b", "vault"])
def test_who_does_not_speak_mqtt_does_without(tmp_path, node):
    path, environment = over_mqtt(tmp_path), {**ENVIRONMENT, "PW": HIDDEN}
    asked: list[str] = []

    def check_tls(_files, at):
        asked.append(at)
        return [], []

    inspected = topology_file.inspect(path, environment, node=node, check_tls=check_tls)
    assert inspected.topology.mqtt is not None
    assert [each.path for each in inspected.warnings if each.path.startswith("mqtt")] == []
    assert asked == ["kafka.security"]
    assert topology_file.load(path, environment).speaks_mqtt("pi-a")


def on_s3(tmp_path):
    path = tmp_path / "topology.yaml"
    access = 's3: {endpoint: "${S3}", access_key: "${cred:s3-key}", secret_key: "${cred:s3-secret}"}'
    text = SECURE.replace("PASSWORD", '"${PW}"').replace('url: "file:///srv"', f'url: "s3://bucket", {access}')
    path.write_text(text)
    return path


@pytest.mark.parametrize("node", ["vault", None])
def test_who_keeps_the_archive_needs_what_its_store_refers_to(tmp_path, node):
    """None: all of them do."""
    path, environment = on_s3(tmp_path), {**ENVIRONMENT, "PW": HIDDEN}
    with pytest.raises(ConfigError) as raised:
        topology_file.inspect(path, environment, node=node)

    missing = [f"archive[0].s3.{key}" for key in ("endpoint", "access_key", "secret_key")]
    assert [each.path for each in raised.value.problems] == missing
    assert topology_file.inspect(path, environment, node=node, lenient=True).topology.archive[0].url == "s3://bucket"


def test_an_edge_does_without_what_the_archives_store_refers_to(tmp_path):
    path, environment = on_s3(tmp_path), {**ENVIRONMENT, "PW": HIDDEN}

    assert topology_file.inspect(path, environment, node="pi-a").topology.archive[0].url == "s3://bucket"


def test_a_credential_of_the_broker_for_mqtt_and_kafka_alike_is_one_that_every_node_needs(tmp_path):
    path = over_mqtt(tmp_path)
    path.write_text(path.read_text().replace("${PW}", "${cred:mqtt}").replace("${CA}", "${cred:ca}"))
    found = topology_file.inspect(path, ENVIRONMENT, lenient=True).credentials
    assert found == {"mqtt": "kafka.security.password", "ca": "mqtt.tls.ca"}
    text = path.read_text()
    kafka, mqtt = text[text.index("kafka:") : text.index("mqtt:")], text[text.index("mqtt:") : text.index("streams:")]
    path.write_text(text.replace(kafka, "").replace(mqtt, mqtt + kafka))
    assert topology_file.inspect(path, ENVIRONMENT, lenient=True).credentials == found


def test_the_names_of_credentials_are_known_whether_they_are_there_or_not(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(SECURE.replace("PASSWORD", '"${cred:kafka-password}${cred:pepper}$${cred:none}"'))
    inspected = topology_file.inspect(path, ENVIRONMENT, lenient=True)
    assert inspected.credentials == dict.fromkeys(("kafka-password", "pepper"), "kafka.security.password")


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o644, 0o604, 0o666, 0o602])
def test_a_credential_that_others_may_read_is_a_warning_and_one_that_they_may_write_is_refused(inspect, tmp_path, mode):
    file = tmp_path / "kafka-password"
    file.write_text(HIDDEN)
    file.chmod(mode)
    environment = {**ENVIRONMENT, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    text = SECURE.replace("PASSWORD", '"${cred:kafka-password}"')
    if mode & 0o002:
        with pytest.raises(ConfigError) as raised:
            inspect(text, environment)
        [problem] = raised.value.problems
        assert problem.path == "kafka.security.password"
        assert problem.message.startswith(f'the credential "kafka-password": {file} may be written by others (-rw')
        assert problem.suggestion == f"chmod 600 {file}"
        return
    warnings = [each for each in inspect(text, environment).warnings if each.path == "kafka.security.password"]
    assert [(each.message.partition(" (")[0], each.suggestion) for each in warnings] == (
        [(f"{file} may be read by others", f"chmod 600 {file}")] if mode & 0o004 else []
    )


@pytest.mark.parametrize("content", ["", "\n", "\r\n"])
def test_an_empty_credential_is_one_that_is_missing_and_said_to_be_empty(tmp_path, content):
    path = tmp_path / "password"
    path.write_text(content, newline="")
    with pytest.raises(MissingError, match=r'the credential "password" is empty') as raised:
        Variables({"CREDENTIALS_DIRECTORY": str(tmp_path)}).expand("${cred:password}")
    assert raised.value.suggestion == f"put the secret into {path}"


def test_into_the_copy_of_a_credential_that_systemd_has_made_nothing_is_to_be_put(tmp_path, monkeypatch):
    """As of a file that a power cut has emptied."""
    monkeypatch.setattr("edged.topology_file.variables._COPIES", tmp_path)
    (tmp_path / "password").touch()
    with pytest.raises(MissingError, match="is empty") as raised:
        Variables({"CREDENTIALS_DIRECTORY": str(tmp_path)}).expand("${cred:password}")
    assert raised.value.suggestion.startswith("`edged node enable` has systemd give it to a unit")


@pytest.mark.parametrize("folder", [None, "/nonexistent"])
def test_a_missing_credentials_message_names_the_units_setting(inspect, folder):
    environment = ENVIRONMENT | ({"CREDENTIALS_DIRECTORY": folder} if folder else {})

    with pytest.raises(ConfigError, match=r"`edged node enable` has systemd give it to a unit"):
        inspect(SECURE.replace("PASSWORD", '"${cred:kafka-password}"'), environment)


def test_a_suggestion_is_the_files_word_and_not_a_variable_with_that_value(inspect):
    """The user's name is the edge's."""
    text = SECURE.replace("PASSWORD", HIDDEN).replace("iot: []", "iot: [{name: cam, edge: pi-x, stream: digits}]")
    with pytest.raises(ConfigError) as raised:
        inspect(text)
    assert 'no edge is called "pi-x" (did you mean "pi-a"?)' in whole_text(raised.value)


def test_a_password_is_none_of_the_files_words(inspect):
    """The same characters come from outside for a name, and are not shown there."""
    text = SECURE.replace("PASSWORD", HIDDEN).replace(
        "iot: []", "iot: [{name: cam, edge: '${SECOND}', stream: digits}]"
    )
    with pytest.raises(ConfigError, match="no edge is called") as raised:
        inspect(text, {**ENVIRONMENT, "SECOND": HIDDEN})
    assert HIDDEN not in whole_text(raised.value)


def test_a_credential_that_is_a_pipe_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "password")
    with pytest.raises(VariableError, match=r'the credential "password" cannot be read in .*: it is no regular file'):
        Variables({"CREDENTIALS_DIRECTORY": str(tmp_path)}).expand("${cred:password}")


@pytest.mark.parametrize("name", ["../secret", "..", ".hidden", "a/b", "", "/etc/passwd", "a\\0b"])
def test_a_credentials_name_is_checked_before_it_becomes_a_path(name, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text(HIDDEN)

    with pytest.raises(VariableError, match="a credential's name is"):
        Variables({"CREDENTIALS_DIRECTORY": str(tmp_path / "in")}).expand(f"${{cred:{name}}}")


@pytest.mark.parametrize(
    ("content", "expected"), [(b"x" * 70_000, "larger than 65536 bytes"), (b"\xff\xfe", "not UTF-8 text")]
)
def test_a_credential_that_is_not_a_short_text_is_refused(tmp_path, content, expected):
    (tmp_path / "pw").write_bytes(content)

    with pytest.raises(VariableError, match=expected):
        Variables({"CREDENTIALS_DIRECTORY": str(tmp_path)}).expand("${cred:pw}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("$${A}", "${A}"),
        ("$A and $", "$A and $"),
    ],
)
def test_expressions_follow_the_shell(text, expected):
    assert Variables({"A": "1", "EMPTY": ""}).expand(text) == expected


@pytest.mark.parametrize("text", ["${", "${}", "${A-b}", "${1A}", "${A B}", "${NONE}"])
def test_a_malformed_expression_or_an_unset_variable_is_refused(text):
    with pytest.raises(VariableError):
        Variables({"A": "1"}).expand(text)


def test_an_unset_variable_is_named_in_the_message(inspect):
    with pytest.raises(ConfigError, match=r"kafka.bootstrap\[0\]: the environment has no variable BROKER"):
        inspect(SECURE.replace("PASSWORD", '"${NODE}"'), {"NODE": "x"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("iot: []", "iot: [{name: cam, edge: '${X}', stream: digits}]"),
        ("iot: []", "iot: [{name: cam, edge: pi-a, stream: '${X}'}]"),
        ("iot: []", "iot: [{name: cam, edge: pi-a, stream: digits, codec: '${X}'}]"),
        ("name: vault", "name: '${X} '"),
        ("name: vault", "name: vault, flush: '${X}'"),
        ("name: vault", "name: vault, flush_bytes: '${X}'"),
        ("file:///srv", "${X}"),
        ("file:///srv", "file://${X}/"),
        ("shape: [4]", "shape: ['${X}']"),
        ("labels: [a, b]", "labels: ['${X}', '${X}']"),
        ("protocol: SASL_SSL", "protocol: '${X}'"),
        ("mechanism: PLAIN", "mechanism: '${X}'"),
        ("username", "user: '${X}', username"),
        ("edges: [{name: pi-a}]", "edges: [{name: '${X}'}, {name: '${X}'}]"),
        ("edges: [{name: pi-a}]", "edges: ['${X}']"),
    ],
)
def test_no_message_has_a_variables_value(inspect, old, new):
    text = SECURE.replace("PASSWORD", '"${NODE}"')
    assert old in text

    with pytest.raises(ConfigError) as raised:
        inspect(text.replace(old, new), {**ENVIRONMENT, "X": HIDDEN})

    assert HIDDEN not in whole_text(raised.value)
    assert "${X}" in whole_text(raised.value)


def test_a_password_in_the_file_is_a_warning_that_does_not_show_it(inspect):
    topology, warnings, _ = inspect(SECURE.replace("PASSWORD", HIDDEN))

    assert topology.kafka.security.password == HIDDEN
    (literal,) = [warning for warning in warnings if warning.path == "kafka.security.password"]
    assert "a secret stands in the file" in literal.message
    assert HIDDEN not in literal.source
    assert literal.source.startswith("  security: {protocol: SASL_SSL")


@pytest.mark.parametrize("reference", ['"${NODE}"', "'${NODE}'"])
def test_a_password_from_outside_is_no_warning(inspect, reference):
    assert all(w.path != "kafka.security.password" for w in inspect(SECURE.replace("PASSWORD", reference)).warnings)


@pytest.mark.parametrize(
    "broken",
    [
        SECURE.replace("PLAIN", "PLANE").replace("PASSWORD", HIDDEN),
        SECURE.replace("password: PASSWORD", f"pasword: {HIDDEN}"),
        SECURE.replace("password: PASSWORD", f"password: &{HIDDEN} x"),
        SECURE.replace("password: PASSWORD", f"password: *{HIDDEN}"),
        SECURE.replace("password: PASSWORD", f"password: !{HIDDEN} x"),
        SECURE.replace("password: PASSWORD", f"password: [{HIDDEN}]"),
        SECURE.replace("password: PASSWORD", f"password: {{{HIDDEN}: 1}}"),
        SECURE.replace("password: PASSWORD", f"password: '{HIDDEN}"),
        SECURE.replace("password: PASSWORD", f"password: @{HIDDEN}"),
        SECURE.replace("password: PASSWORD", f'password: "{HIDDEN}\\q"'),
        SECURE.replace("password: PASSWORD", f'password: "${{NONE:-{HIDDEN}}}", mechanism: x'),
        SECURE.replace("PASSWORD", HIDDEN).replace("schema: 1", "schema: 1\nschema: ]"),
        SECURE.replace("file:///srv", f"s3://user:{HIDDEN}@host/x").replace("PASSWORD", "'${NODE}'"),
        f"kafka:\n  password:\n   {HIDDEN}: : {HIDDEN}\n",
    ],
)
def test_a_password_in_a_broken_file_is_not_shown(inspect, broken):
    assert HIDDEN in broken

    with pytest.raises(ConfigError) as raised:
        inspect(broken)

    assert HIDDEN not in whole_text(raised.value)


def test_a_password_that_yaml_takes_for_a_number_is_not_shown(inspect):
    with pytest.raises(ConfigError, match="YAML reads this as a number") as raised:
        inspect(SECURE.replace("PASSWORD", "1234567"))

    assert "1234567" not in whole_text(raised.value)


def test_the_processs_environment_is_the_default(tmp_path, monkeypatch):
    path = Path(tmp_path / "topology.yaml")
    path.write_text(SECURE.replace("PASSWORD", "'${NODE}'"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    assert topology_file.load(path).kafka.security.username == "pi-a"
