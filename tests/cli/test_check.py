"""`edged check`: the plan, or every problem with its line and a caret."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from edged.adapters.tflite.writer import to_tflite
from edged.cli import check
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import Conv2d, GlobalAvgPool
from edged.domain.topology import MIB
from edged.errors import KernelsUnavailable
from tests.cli.conftest import VALID
from tests.support.other_backend import OtherBackend

TLS_FILES = Path(__file__).parents[1] / "adapters" / "tls_files"


def test_a_valid_file_gives_the_plan_and_0(edged, topology_file):
    code, out, err = edged("check", topology_file())

    assert (code, err) == (0, "")
    assert out.startswith("lab: 2 devices → 2 edges → 1 archive, over Kafka at localhost:9092 (PLAINTEXT)\n")
    assert re.search(r"^cam-01 +pi-a +digits +raw +lab\.iot\.cam-01$", out, re.MULTILINE)
    assert re.search(r"^pi-b +1 +118\.\d MiB +256\.0 MiB +1024\.0 MiB +cam-02$", out, re.MULTILINE)
    assert re.search(r"^dense units 3 +3 +195$", out, re.MULTILINE)
    assert re.search(r"^lab\.epochs\.pi-a +1 h +2\.0 MiB$", out, re.MULTILINE)
    assert re.search(r"^lab\.archive\.digits\.pi-a +unlimited +broker's default$", out, re.MULTILINE)
    memory = "base 76.0 MiB + model 0.1 MiB + prefetch 16.0 MiB + cache 26.0 MiB = 118.1 MiB of 200.0 MiB"
    assert f"memory of pi-a: {memory}\n" in out
    index = "index of pi-a's cache, once it is full: 209.6 MiB more"
    assert f"{index}, 127.7 MiB above the limit: raise memory_limit or make cache.disk smaller\n" in out
    assert out.endswith("valid\n")


def test_the_writes_of_a_year_are_projected_for_each_node(edged, topology_file):
    _, out, _ = edged("check", topology_file())
    _, as_json, _ = edged("check", topology_file(), "--json")

    gb = r"\d+\.\d GB"
    terms = rf"log {gb} \+ checkpoints {gb} \+ epochs {gb} \+ cache 3,135\.3 GB = 3,{gb}; \d\.\d MiB an epoch"
    begin = "to {}'s disk in a year, at most:"
    assert re.search(rf"^written {begin.format('pi-a')} {terms}$", out, re.MULTILINE)
    assert re.search(rf"^written {begin.format('vault')} log {gb}, beside the archive itself$", out, re.MULTILINE)
    (writes, _) = [edge["writes_per_year"] for edge in json.loads(as_json)["edges"]]
    assert writes["total"] == sum(num_bytes for part, num_bytes in writes.items() if part != "total")


def test_an_index_that_fits_is_told_without_advice(edged, topology_file):
    text = VALID.replace("name: pi-b", "name: pi-b, cache: {disk: 128MiB}")
    assert text != VALID

    _, out, _ = edged("check", topology_file(text))

    assert re.search(r"^index of pi-b's cache, once it is full: \d+\.\d MiB more$", out, re.MULTILINE)


def test_a_problem_is_shown_with_its_line_and_a_caret(edged, topology_file):
    code, out, err = edged("check", topology_file(VALID.replace("edge: pi-a", "edge: pi-x")))

    assert (code, out) == (78, "")
    assert err == (
        'topology.yaml:8:26: iot[0].edge: no edge is called "pi-x" (did you mean "pi-a"?)\n'
        "    8 |   - {name: cam-01, edge: pi-x, stream: digits}\n"
        "      |                          ^\n"
    )


def test_missing_sections_share_one_source_line(edged, topology_file):
    _, _, err = edged("check", topology_file("schema: 1\nsite: lab\n"))

    assert err.count("is missing") == 5
    assert err.count("    1 | schema: 1\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "cache: {memory: 16}",
            "cache.memory: expected 0, or 1MiB to 1TiB (16 bytes; did you mean 16MiB?)",
        ),
        ("cache: {disk: 2}", "(2 bytes; did you mean 2MiB?)"),
        ("prefetch: 16", "prefetch: expected 1MiB to 1TiB (16 bytes; did you mean 16MiB?)"),
        ("memory_limit: 256", "(256 bytes; did you mean 256MiB?)"),
    ],
)
def test_a_size_whose_unit_was_forgotten_is_refused(edged, topology_file, text, said):
    code, _, err = edged("check", topology_file(VALID.replace("{name: pi-b}", f"{{name: pi-b, {text}}}")))

    assert code == 78
    assert said in err


def test_no_cache_at_all_is_a_choice(edged, topology_file):
    assert edged("check", topology_file(VALID.replace("{name: pi-b}", "{name: pi-b, cache: {memory: 0}}")))[0] == 0


def test_the_caret_stands_right_behind_tabs_and_wide_characters(edged, topology_file):
    text = VALID.replace("labels: [0, 1, 2]", 'labels: ["雨\t", no, 2]')

    _, _, err = edged("check", topology_file(text))

    line, caret = err.splitlines()[-2:]
    at = caret.index("^")
    assert line[: line.index("no")].count("\t") == caret[:at].count("\t")
    assert at == line.index("no") + 1  # one character is two columns wide


def test_a_long_line_is_cut_around_the_caret(edged, topology_file):
    labels = ", ".join(f"label-{i:04}" for i in range(500))

    _, _, err = edged("check", topology_file(VALID.replace("[0, 1, 2]", f"[{labels}, no]")))

    line, caret = next((a, b) for a, b in zip(err.splitlines(), err.splitlines()[1:], strict=False) if "^" in b)
    assert len(line) < 150
    assert line[caret.index("^") :].startswith("no")


def test_all_problems_are_shown_at_once(edged, topology_file):
    text = (
        VALID.replace("site: lab", "site: no").replace("dense: 3", "dense: 4").replace("pi-b, stream", "pi-c, stream")
    )

    code, _, err = edged("check", topology_file(text))

    assert code == 78
    assert [line.split(":")[1] for line in err.splitlines() if line.startswith("topology.yaml")] == ["2", "9", "17"]


def test_the_problems_as_json_go_to_stdout(edged, topology_file):
    code, out, err = edged("check", "--json", topology_file(VALID.replace("edge: pi-a", "edge: pi-x")))

    assert (code, err) == (78, "")
    assert json.loads(out) == {
        "valid": False,
        "problems": [
            {
                "place": "topology.yaml:8:26",
                "path": "iot[0].edge",
                "message": 'no edge is called "pi-x"',
                "suggestion": 'did you mean "pi-a"?',
            }
        ],
    }


def test_the_plan_as_json_has_ranks_budgets_and_topics(edged, topology_file):
    code, out, _ = edged("check", "--json", topology_file())

    plan = json.loads(out)
    assert code == 0
    assert (plan["valid"], plan["warnings"]) == (True, [])
    assert [(edge["name"], edge["rank"], edge["devices"]) for edge in plan["edges"]] == [
        ("pi-a", 0, ["cam-01"]),
        ("pi-b", 1, ["cam-02"]),
    ]
    memory = plan["edges"][0]["memory"]
    assert memory["total"] == sum(memory[part] for part in ("base", "model", "prefetch", "cache")) <= memory["limit"]
    assert plan["edges"][0]["cache_index"] == 1048 * MIB // (64 + 256) * 64
    assert plan["jobs"][0]["layers"][-1] == {"layer": "dense units 3", "output": [3], "parameters": 195}
    assert len(plan["topics"]) == 14


@pytest.mark.parametrize(
    ("node", "devices", "edges", "topics"),
    [
        ("cam-01", ["cam-01"], ["pi-a"], {"lab.iot.cam-01", "lab.predictions.pi-a"}),
        ("pi-b", ["cam-02"], ["pi-b"],
         {"lab.iot.cam-02", "lab.archive.digits.pi-b", "lab.epochs.pi-b", "lab.predictions.pi-b",
          "lab.dead-letters.pi-b", "lab.archive.requests", "lab.presence.pi-b"}),
        ("vault", [], ["pi-a", "pi-b"],
         {"lab.archive.digits.pi-a", "lab.archive.digits.pi-b", "lab.archive.requests", "lab.epochs.pi-a",
          "lab.epochs.pi-b", "lab.presence.vault"}),
    ],
)  # fmt: skip
def test_a_node_sees_what_concerns_it(edged, topology_file, node, devices, edges, topics):
    _, out, _ = edged("check", topology_file(), "--node", node, "--json")

    plan = json.loads(out)
    assert [device["name"] for device in plan["iot"]] == devices
    assert [edge["name"] for edge in plan["edges"]] == edges
    assert {topic["name"] for topic in plan["topics"]} == topics


def test_a_device_sees_neither_its_edges_memory_nor_the_archive_nor_the_model(edged, topology_file):
    _, out, _ = edged("check", topology_file(), "--node", "cam-01")

    assert re.search(r"^cam-01 +pi-a +digits +raw +lab\.iot\.cam-01 +lab\.predictions\.pi-a$", out, re.MULTILINE)
    assert not re.search("memory|file:///srv/edged|dense|trained", out)


def test_the_archive_sees_what_comes_to_it_and_where_it_goes(edged, topology_file):
    _, out, _ = edged("check", topology_file(), "--node", "vault")

    assert re.search(r"^vault +file:///srv/edged$", out, re.MULTILINE)
    assert re.search(r"^pi-b +digits +lab\.archive\.digits\.pi-b$", out, re.MULTILINE)
    assert re.search(
        r"^memory of vault: base \d+\.0 MiB \+ flush 64\.0 MiB \+ blocks 32\.0 MiB \+ replies 14\.0 MiB = \d+\.0 MiB$",
        out,
        re.MULTILINE,
    )
    assert not re.search("memory of pi|cam-01|dense|trained", out)


OVER_MQTT = VALID.replace("streams:", "mqtt: {broker: broker.lan, packet_bytes: 64KiB}\nstreams:").replace(
    "name: cam-01, edge: pi-a", "name: cam-01, transport: mqtt, id: counter, receipts: true, edge: pi-a"
)


def test_an_mqtt_device_is_shown_with_the_topics_and_memory_that_its_transport_takes(edged, topology_file):
    code, out, err = edged("check", topology_file(OVER_MQTT))

    assert code == 0
    assert out.startswith(
        "lab: 2 devices → 2 edges → 1 archive,"
        " over Kafka at localhost:9092 (PLAINTEXT) and MQTT at broker.lan:1883 (unencrypted)\n"
    )
    assert re.search(r"^cam-01 +pi-a +digits +raw +lab/iot/cam-01$", out, re.MULTILINE)
    assert re.search(r"^cam-02 +pi-b +digits +raw +lab\.iot\.cam-02$", out, re.MULTILINE)
    assert re.search(r"^lab\.iot\.cam-01 +broker's default", out, re.MULTILINE)  # its edge writes it
    assert " + cache 26.0 MiB + mqtt 3.0 MiB = 121.1 MiB of 200.0 MiB\n" in out
    assert "mqtt.broker: samples go over the network unencrypted" in err

    _, out, _ = edged("check", topology_file(OVER_MQTT), "--node", "cam-01")
    assert re.search(r"^cam-01 .* lab/iot/cam-01 +lab/predictions/cam-01$", out, re.MULTILINE)
    _, out, _ = edged("check", topology_file(OVER_MQTT), "--node", "vault")
    assert "MQTT" not in out


def test_the_json_of_an_mqtt_device_has_its_topics_of_both_brokers(edged, topology_file):
    plan = json.loads(edged("check", topology_file(OVER_MQTT), "--json")[1])
    assert plan["mqtt"] == {"broker": "broker.lan:1883", "tls": False, "packet_bytes": 65536, "window": 32}
    first, second = plan["iot"]
    assert (first["topic"], first["transport"], second["transport"]) == ("lab.iot.cam-01", "mqtt", "kafka")
    assert first["mqtt"] == {
        "topic": "lab/iot/cam-01",
        "predictions": "lab/predictions/cam-01",
        "receipts": "lab/receipts/cam-01",
        "id": "counter",
    }
    assert "mqtt" not in second


def test_without_training_the_plan_says_that_nothing_is_trained(edged, topology_file):
    code, out, _ = edged("check", topology_file(VALID.partition("training:")[0]))

    assert code == 0
    assert "\nnothing is trained: the file has no training section\n" in out


def test_the_plan_says_that_compiled_kernels_compute_here(edged, topology_file, monkeypatch):
    monkeypatch.setattr(check, "compiled", lambda: OtherBackend(instructions="NEON"))

    _, out, _ = edged("check", topology_file())
    _, as_json, _ = edged("check", "--json", topology_file())

    assert "\non this machine, layers are computed by compiled kernels (NEON)\n" in out
    assert json.loads(as_json)["kernels"] == {
        "backend": OtherBackend().name,
        "instructions": "NEON",
        "left_out": [],
        "reason": None,
        "numpy_jobs": [],
    }


@pytest.mark.parametrize(("transport", "is_told"), [("mqtt", True), ("kafka", False)])
def test_the_plan_says_that_this_machine_cannot_speak_mqtt(edged, topology_file, monkeypatch, transport, is_told):
    monkeypatch.setattr(check, "find_spec", lambda _name: None)
    text = VALID.replace("stream: digits}", f"stream: digits, transport: {transport}}}", 1)
    file = topology_file(f"mqtt: {{broker: localhost}}\n{text}")

    for options in ([], ["--node", "pi-a"]):
        _, out, _ = edged("check", file, *options)
        assert ("\non this machine, paho, which nodes on MQTT need, is not installed: " in out) == (
            is_told or not options
        )
    assert "paho" not in edged("check", file, "--node", "vault")[1]


def test_the_plan_says_why_better_kernels_are_not_used(edged, topology_file, monkeypatch):
    monkeypatch.setattr(check, "compiled", lambda: OtherBackend(instructions="AVX2", left_out=("v4.so is damaged",)))

    _, out, _ = edged("check", topology_file())
    _, as_json, _ = edged("check", "--json", topology_file())

    assert "compiled kernels (AVX2)\nnot by better ones: v4.so is damaged\n" in out
    assert json.loads(as_json)["kernels"]["left_out"] == ["v4.so is damaged"]


def test_the_plan_says_why_numpy_computes_here(edged, topology_file, monkeypatch):
    def refuse():
        raise KernelsUnavailable("this CPU lacks fma")

    monkeypatch.setattr(check, "compiled", refuse)

    _, out, _ = edged("check", topology_file())
    _, as_json, _ = edged("check", "--json", topology_file())

    assert "\non this machine, layers are computed by numpy: this CPU lacks fma\n" in out
    assert json.loads(as_json)["kernels"] == {
        "backend": "numpy",
        "instructions": None,
        "left_out": [],
        "reason": "this CPU lacks fma",
        "numpy_jobs": [],
    }


def test_a_file_that_asks_for_numpy_is_the_reason(edged, topology_file):
    _, out, _ = edged("check", topology_file(VALID + "  kernels: numpy\n"))

    assert "\non this machine, layers are computed by numpy: training.kernels says so\n" in out


def test_of_jobs_of_both_kinds_those_that_ask_for_numpy_are_named(edged, topology_file, monkeypatch):
    monkeypatch.setattr(check, "compiled", lambda: OtherBackend(instructions="NEON"))
    body = "stream: digits, model: [flatten, {dense: 3}]"
    jobs = f"training:\n  - {{name: tiny, {body}, kernels: numpy}}\n  - {{name: large, {body}}}\n"
    file = topology_file(VALID.partition("training:")[0].replace(", memory_limit: 200MiB", "") + jobs)

    _, out, _ = edged("check", file)
    _, as_json, _ = edged("check", "--json", file)

    assert " by compiled kernels (NEON), those of tiny by numpy: training.kernels says so\n" in out
    assert json.loads(as_json)["kernels"]["numpy_jobs"] == ["tiny"]


@pytest.mark.parametrize("words", [["--node", "cam-01"], ["--node", "vault"]], ids=["device", "archive"])
def test_who_trains_nothing_is_told_nothing_of_kernels(edged, topology_file, words):
    _, out, _ = edged("check", topology_file(), *words)

    assert "on this machine" not in out


def test_an_unknown_node_is_a_problem_with_a_suggestion(edged, topology_file):
    code, out, err = edged("check", topology_file(), "--node", "pi-c")

    assert (code, out) == (78, "")
    assert err == 'topology.yaml: no node is called "pi-c" (did you mean "pi-a"?)\n'


def test_a_warning_is_shown_and_the_file_stays_valid(edged, topology_file):
    code, out, err = edged("check", topology_file(VALID.replace("localhost", "broker.lan")))

    assert code == 0
    assert out.endswith("valid\n")
    assert err.startswith("topology.yaml:4:14: warning: kafka.bootstrap: samples and models go over the network unencr")


UNSET = VALID.replace("[localhost:9092]", "['${KAFKA_HOST_UNSET}']").replace("file:///srv/edged", '"${ARCHIVE_UNSET}"')


def test_what_only_the_nodes_have_is_a_warning_away_from_them(edged, topology_file):
    code, out, err = edged("check", topology_file(UNSET))

    assert code == 0
    assert "over Kafka at ${KAFKA_HOST_UNSET}" in out
    said = "warning: {}: the environment has no variable {}; the node will need it"
    assert [line for line in err.splitlines() if line.startswith("topology.yaml")] == [
        "topology.yaml:4:15: " + said.format("kafka.bootstrap[0]", "KAFKA_HOST_UNSET"),
        "topology.yaml:14:24: " + said.format("archive[0].url", "ARCHIVE_UNSET"),
    ]


def test_strict_refuses_what_is_missing_here(edged, topology_file):
    code, out, err = edged("check", "--strict", topology_file(UNSET))

    assert (code, out) == (78, "")
    assert "the environment has no variable KAFKA_HOST_UNSET (set it, or write ${KAFKA_HOST_UNSET:-default})" in err


def test_what_decides_the_plan_must_be_there(edged, topology_file):
    code, _, err = edged("check", topology_file(VALID.replace("dense: 3", "dense: '${UNITS_UNSET}'")))

    assert code == 78
    assert "the environment has no variable UNITS_UNSET" in err


def test_a_missing_file_is_a_problem(edged, topology_file):
    topology_file()

    code, _, err = edged("check", "topologie.yaml")

    assert code == 78
    assert err == "topologie.yaml: the file cannot be read: No such file or directory\n"


def test_no_colour_without_a_terminal(edged, topology_file, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)

    _, _, err = edged("check", topology_file("site: ["))

    assert "\033" not in err


def test_control_characters_of_a_file_do_not_reach_the_terminal(edged, topology_file):
    _, _, err = edged("check", topology_file("site: \033[31mred\n"))

    assert "\033" not in err


def test_strict_opens_the_certificate_files(edged, topology_file):
    files = f"ca: nowhere.pem, certificate: {TLS_FILES}/node.pem, key: {TLS_FILES}/node-encrypted.key"
    tls = f"security: {{protocol: SSL, {files}}}"
    file = topology_file(VALID.replace("bootstrap:", f"{tls}\n  bootstrap:"))

    assert edged("check", file)[0] == 0
    code, _, err = edged("check", "--strict", file)

    assert code == 78
    assert "topology.yaml:4:33: kafka.security.ca: nowhere.pem cannot be read: No such file or directory\n" in err
    assert f"kafka.security.key: {TLS_FILES}/node-encrypted.key is encrypted, and there is no key_password" in err


def test_strict_warns_of_a_key_that_others_may_read_and_refuses_one_that_they_may_write(edged, topology_file, tmp_path):
    for name in ("node.pem", "node.key"):
        (tmp_path / name).write_bytes((TLS_FILES / name).read_bytes())
    key = tmp_path / "node.key"
    tls = f"security: {{protocol: SSL, certificate: {tmp_path}/node.pem, key: {key}}}"
    file = topology_file(VALID.replace("bootstrap:", f"{tls}\n  bootstrap:"))

    key.chmod(0o644)
    code, _, err = edged("check", "--strict", file)
    assert code == 0
    assert f"warning: kafka.security.key: {key} may be read by others (-rw-r--r-- " in err
    assert f"(chmod 600 {key})" in err

    key.chmod(0o606)
    code, _, err = edged("check", "--strict", file)
    assert code == 78
    assert f"kafka.security.key: {key} may be written by others (-rw----rw- " in err


def test_a_command_that_talks_to_kafka_names_the_certificate_file_that_it_cannot_use(edged, topology_file):
    """As does a node: `run`, `infer` and `sensor` make the same connection."""
    file = topology_file(VALID.replace("bootstrap:", "security: {protocol: SSL, ca: nowhere.pem}\n  bootstrap:"))

    assert edged("topics", "--apply", file) == (
        78,
        "",
        "kafka.security.ca: nowhere.pem cannot be read: No such file or directory\n",
    )


@pytest.mark.parametrize("example", sorted((Path(__file__).parents[2] / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_valid_at_a_desk_and_on_a_node(edged, example, monkeypatch, tmp_path):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("NODE", raising=False)
    code, plan, _ = edged("check", str(example))
    assert code == edged("topics", str(example))[0] == 0
    assert "above the limit" not in plan

    for name in ("kafka-password", "mqtt-password"):
        (tmp_path / name).write_text("x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("NODE", "pi-north")
    on_the_node = tmp_path / example.name  # where the authority's certificates are
    on_the_node.write_text(example.read_text().replace("/etc/edged/ca.pem", str(TLS_FILES / "ca.pem")))
    code, out, err = edged("check", "--strict", str(on_the_node))

    assert code == 0
    assert out.endswith("valid\n")
    assert "will need it" not in err


GROUP = VALID + "  exchange: {mode: all_reduce, compression: int8, sync_every: 4}\n"
SERVED = GROUP.replace("all_reduce, compression: int8", "parameter_server, compression: top_k")


def test_the_plan_names_a_group_its_topics_and_its_memory(edged, topology_file):
    code, out, err = edged("check", topology_file(GROUP))

    assert (code, err) == (0, "")
    assert (
        "one model of digits: pi-a, pi-b combine their gradients every 4 steps (all_reduce, compression int8)\n"
        "their log: lab.train.digits, their checkpoints: lab.checkpoints.digits\n"
    ) in out
    assert "model 0.1 MiB + exchange 0.0 MiB + prefetch" in out
    assert re.search(r"^lab\.train\.digits +24 h +1\.0 MiB$", out, re.MULTILINE)
    assert re.search(r"^lab\.checkpoints\.digits +compacted +1\.0 MiB$", out, re.MULTILINE)


def test_the_parameter_servers_node_is_told_what_it_holds(edged, topology_file):
    file = topology_file(
        SERVED.replace("dense: 3", "dense: 60000}, {dense: 3")
        .replace("200MiB", "2GiB")
        .replace("{name: pi-b}", "{name: pi-b, memory_limit: 2GiB}")
    )

    _, out, _ = edged("check", file, "--node", "vault")

    parameters = 64 * 60000 + 60000 + 60000 * 3 + 3
    held = f"{2 * 2 * parameters * 4 / MIB:.1f} MiB"
    assert f"combined by vault, which holds {held} for it, from lab.gradients.digits\n" in out
    assert "(parameter_server, compression top_k 0.2)" in out
    assert "one model" not in edged("check", file, "--node", "cam-01")[1]


def test_the_group_as_json(edged, topology_file):
    file = topology_file(SERVED)
    plan = json.loads(edged("check", "--json", file)[1])

    assert plan["groups"] == [
        {
            "job": "digits",
            "members": ["pi-a", "pi-b"],
            "mode": "parameter_server",
            "compression": "top_k 0.2",
            "sync_every": 4,
            "server": "vault",
            "server_memory": 4 * 195 * 4,
            "log": "lab.train.digits",
            "gradients": "lab.gradients.digits",
            "checkpoints": "lab.checkpoints.digits",
        }
    ]
    assert plan["edges"][0]["memory"]["exchange"] == 4 * 195 * 4
    assert json.loads(edged("check", "--json", topology_file())[1])["groups"] == []


def test_a_scaled_learning_rate_is_told(edged, topology_file):
    _, out, _ = edged("check", topology_file(VALID + "  reference_batch: 32\n  schedule: {constant: {warmup: 1}}\n"))

    assert "steps: cross_entropy, sgd, constant warmup 1.0, learning rate × 4 for its batch\n" in out


ON_A_BACKBONE = VALID.replace(
    "model: [flatten, {dense: 3}]", "model: [{dense: 3}]\n  backbone: {model: features.tflite}"
)


def write_features(folder, sample_shape=(8, 8, 1)):
    layers = (Conv2d(4, (3, 3), (2, 2)), GlobalAvgPool())
    content = to_tflite(sample_shape, layers, initial_params(sample_shape, layers, 0), labels=None)
    (folder / "features.tflite").write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_the_plan_names_the_backbone_by_its_digest(edged, topology_file, tmp_path):
    digest = write_features(tmp_path)
    code, out, err = edged("check", topology_file(ON_A_BACKBONE))
    assert (code, err) == (0, "")
    assert f"backbone features.tflite, SHA-256 {digest}\n" in out
    assert "frozen: 8×8×1 → 4 features, on which the model is trained\n" in out
    assert re.search(r"^dense units 3 +3 +15$", out, re.MULTILINE)


def test_a_backbone_that_is_not_there_or_is_none_is_a_problem_at_its_line(edged, topology_file, tmp_path):
    file = topology_file(ON_A_BACKBONE)
    code, _, err = edged("check", file)
    assert code == 78
    assert "topology.yaml:18:21: training.backbone.model: features.tflite cannot be read: No such file" in err
    (tmp_path / "features.tflite").write_bytes(b"something else")
    assert "training.backbone.model: not a .tflite file" in edged("check", file)[2]
    write_features(tmp_path, sample_shape=(9, 9, 1))
    assert "it takes samples of 9×9×1, the stream has 8×8×1" in edged("check", file)[2]


def test_commands_of_nodes_without_the_backbones_file_do_not_miss_it(edged, topology_file):
    assert edged("topics", topology_file(ON_A_BACKBONE))[0] == 0


def test_each_jobs_plan_is_shown_and_the_memory_of_all_counts(edged, topology_file):
    body = "stream: digits, model: [flatten, {dense: 3}], global_batch: 4096"
    both = (
        VALID.partition("training:")[0]
        + f"training:\n  - {{name: tiny, {body}}}\n  - {{name: large, {body}, epochs: 3}}\n"
    )

    code, out, _ = edged("check", topology_file(both))

    assert code == 0
    assert "\njob tiny\n" in out
    assert out.index("\njob tiny\n") < out.index("10 epochs") < out.index("\njob large\n") < out.index("3 epochs")
    assert "lab.predictions.pi-a.large" in out
    plan = json.loads(edged("check", "--json", topology_file(both))[1])
    assert [job["name"] for job in plan["jobs"]] == ["tiny", "large"]
    memory = plan["edges"][1]["memory"]
    assert memory["model"] == sum(job["memory"]["total"] for job in plan["jobs"])
    assert memory["prefetch"] == 2 * 16 * MIB
