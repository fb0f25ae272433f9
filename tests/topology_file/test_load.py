"""The topology file as its user sees it: what is accepted, and the exact messages about what is not."""

# ruff: noqa: E501 - one case, one line

import os
from pathlib import Path

import pytest

from edged import topology_file
from edged.domain.nn.spec import (
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    MaxPool1d,
    MaxPool2d,
    Relu,
    Relu6,
    Tanh,
)
from edged.domain.topology import (
    MIB,
    Adam,
    Archive,
    Augment,
    Cache,
    Constant,
    Cosine,
    Device,
    Edge,
    Exchange,
    Kafka,
    Lars,
    Mqtt,
    Outer,
    Sgd,
    Step,
    Stream,
    StreamRetention,
    Tls,
)
from edged.errors import ConfigError

VALID = """\
schema: 1
site: lab
kafka:
  bootstrap: [localhost:9092]
streams:
  digits:
    sample: {shape: [8, 8, 1], dtype: uint8}
    labels: [zero, one, two]
iot:
  - name: cam-01
    edge: pi-a
    stream: digits
edges:
  - name: pi-a
  - name: pi-b
archive:
  - name: vault
    url: file:///srv/edged
training:
  stream: digits
  model:
    - flatten
    - dense: 3
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a text as topology.yaml, named without a folder."""
    monkeypatch.chdir(tmp_path)

    def load_text(text, environment=None):
        content = text if isinstance(text, bytes) else text.encode()
        Path("topology.yaml").write_bytes(content)
        return topology_file.load(Path("topology.yaml"), environment or {})

    return load_text


@pytest.fixture
def problems(load):
    """The problems of a text, as lines; none when it is valid."""

    def problems_of(text, environment=None):
        try:
            load(text, environment)
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    return problems_of


def test_a_small_file_gives_the_values_with_their_defaults(load):
    topology = load(VALID)

    assert topology.site == "lab"
    assert topology.kafka == Kafka(("localhost:9092",))
    assert topology.streams == (Stream("digits", (8, 8, 1), "uint8", ("zero", "one", "two")),)
    assert topology.iot == (Device("cam-01", "pi-a", "digits"),)
    assert topology.edges == (Edge("pi-a"), Edge("pi-b"))
    assert topology.archive == (Archive("vault", "file:///srv/edged"),)
    assert topology.jobs[0].model == (Flatten(), Dense(3))
    assert (topology.jobs[0].epochs, topology.jobs[0].optimizer.momentum) == (10, 0.9)


def test_without_training_the_site_only_collects(load):
    assert load(VALID[: VALID.index("training:")]).jobs == ()


def test_a_site_without_mqtt_has_no_broker_for_it(load):
    assert load(VALID).mqtt is None


@pytest.mark.parametrize(
    ("section", "mqtt"),
    [
        ("{broker: broker.lan}", Mqtt("broker.lan")),
        ("{broker: 'broker.lan:1884', packet_bytes: 64KiB, window: 8}", Mqtt("broker.lan:1884", None, None, None, 65536, 8)),
        ("{broker: broker.lan, tls: {}, username: '${NODE}', password: '${PW}'}", Mqtt("broker.lan", Tls(), "pi-a", "x")),
        ("{broker: broker.lan, tls: {ca: /ca.pem, certificate: /c.pem, key: /k.pem, key_password: '${PW}'}}",
         Mqtt("broker.lan", Tls("/ca.pem", "/c.pem", "/k.pem", "x"))),
    ],
)  # fmt: skip
def test_the_section_mqtt_is_read(load, section, mqtt):
    text = VALID.replace("streams:\n", f"mqtt: {section}\nstreams:\n")
    topology = load(text, {"NODE": "pi-a", "PW": "x"})

    assert topology.mqtt == mqtt
    assert "'x'" not in repr(topology)


def test_an_archive_keeps_what_its_limits_say_of_each_stream(load):
    retention = "{age: 90d, size: 2TB, streams: {digits: {age: 30d}, birds: {}}}"
    text = VALID.replace("/srv/edged", f"/srv/edged\n    when_full: oldest_first\n    retention: {retention}")
    with pytest.raises(ConfigError, match='there is no stream "birds"'):
        load(text)

    [archive] = load(text.replace(", birds: {}", "")).archive

    assert archive.when_full == "oldest_first"
    assert archive.retention.of("digits") == StreamRetention("digits", 30 * 86_400.0, None)
    assert archive.retention.of("other") == StreamRetention("other", 90 * 86_400.0, 2 * 10**12)
    assert load(VALID).archive[0].retention.of("digits") == StreamRetention("digits")


def test_sizes_and_durations_have_units(load):
    text = VALID.replace("- name: pi-a", "- {name: pi-a, cache: {memory: 1.5MiB, disk: 1GB}, prefetch: 8388608}")
    topology = load(text.replace("/srv/edged", "/srv/edged\n    flush: 2min\n    flush_bytes: 64 KiB"))

    assert topology.edges[0].cache == Cache(3 * MIB // 2, 10**9)
    assert topology.edges[0].prefetch == 8 * MIB
    assert (topology.archive[0].flush_age_s, topology.archive[0].flush_bytes) == (120.0, 65536)


@pytest.mark.parametrize(
    ("url", "seconds"), [("file:///srv/edged", 10.0), ("hdfs://namenode:8020/edged", 60.0), ("s3://bucket/edged", 60.0)]
)
def test_a_remote_store_gets_fewer_and_larger_files_by_default(load, url, seconds):
    assert load(VALID.replace("file:///srv/edged", url)).archive[0].flush_age_s == seconds


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("5", 5), ("5s", 5), ("0.5h", 1800)])
def test_a_duration_without_a_unit_is_in_seconds(load, text, seconds):
    assert load(VALID.replace("/srv/edged", f"/srv/edged\n    flush: {text}")).archive[0].flush_s == seconds


def test_layers_take_a_number_or_settings(load):
    model = """\
    - conv2d: {filters: 4, kernel: [3, 2], stride: 1, padding: same, activation: relu}
    - max_pool2d: 2
    - max_pool2d: {size: 2, stride: [1, 2]}
    - relu
    - flatten
    - dense: {units: 5, activation: relu}
"""
    topology = load(VALID.replace("    - flatten\n", model))

    assert topology.jobs[0].model == (
        Conv2d(4, (3, 2), (1, 1), "same", "relu"),
        MaxPool2d((2, 2), (2, 2)),
        MaxPool2d((2, 2), (1, 2)),
        Relu(),
        Flatten(),
        Dense(5, "relu"),
        Dense(3),
    )


def test_every_kind_of_layer_can_be_written(load):
    model = """\
    - depthwise_conv2d: {kernel: 3, stride: [2, 1], padding: same, activation: relu6}
    - avg_pool2d: {size: 2, stride: 1}
    - relu6
    - tanh
    - dropout: 0.25
    - group_norm: {groups: 1, epsilon: 0.001}
    - global_avg_pool
"""
    topology = load(VALID.replace("    - flatten\n", model))

    assert topology.jobs[0].model == (
        DepthwiseConv2d((3, 3), (2, 1), "same", "relu6"),
        AvgPool2d((2, 2), (1, 1)),
        Relu6(),
        Tanh(),
        Dropout(0.25),
        GroupNorm(1, 0.001),
        GlobalAvgPool(),
        Dense(3),
    )


def test_layers_along_a_series_can_be_written(load):
    model = """\
    - conv1d: {filters: 4, kernel: 5, stride: 2, padding: same, activation: tanh}
    - max_pool1d: 2
    - avg_pool1d: {size: 2, stride: 1}
    - group_norm: 2
    - flatten
"""
    topology = load(VALID.replace("    - flatten\n", model).replace("[8, 8, 1]", "[32, 3]"))

    assert topology.jobs[0].model == (
        Conv1d(4, 5, 2, "same", "tanh"),
        MaxPool1d(2, 2),
        AvgPool1d(2, 1),
        GroupNorm(2),
        Flatten(),
        Dense(3),
    )


@pytest.mark.parametrize(
    ("text", "optimizer"),
    [
        ("sgd", Sgd()),
        ("{sgd: {momentum: 0.5, nesterov: true}}", Sgd(momentum=0.5, nesterov=True)),
        ("adam", Adam()),
        ("{adam: {learning_rate: 0.01, beta1: 0.8, beta2: 0.99, epsilon: 1e-6}}", Adam(0.01, 0.8, 0.99, 1e-6)),
        ("{lars: {trust: 0.01}}", Lars(trust=0.01)),
    ],
)
def test_optimizers_take_their_settings_or_defaults(load, text, optimizer):
    assert load(VALID + f"  optimizer: {text}\n").jobs[0].optimizer == optimizer


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("constant", Constant()),
        ("{constant: {warmup: 0.5}}", Constant(0.5)),
        ("{cosine: {warmup: 2, floor: 0.01}}", Cosine(2, 0.01)),
        ("{step: {every: 3, factor: 0.5}}", Step(3, 0.5)),
    ],
)
def test_schedules_take_their_settings_or_defaults(load, text, schedule):
    assert load(VALID + f"  schedule: {text}\n").jobs[0].schedule == schedule


def test_the_settings_of_training_are_read(load):
    training = load(
        VALID
        + "  class_weights: [1, 2, 0.5]\n  weight_decay: 5e-4\n  clip_norm: 1\n"
        + "  augment: {flip: horizontal, shift: 2, crop: 0.8}\n"
    ).jobs[0]

    assert training.class_weights == (1, 2, 0.5)
    assert (training.weight_decay, training.clip_norm) == (5e-4, 1)
    assert training.augment == Augment("horizontal", 2, 0.8)


def test_an_autoencoder_needs_no_labels(load):
    text = VALID.replace("    labels: [zero, one, two]\n", "").replace("dense: 3", "dense: 64")
    topology = load(text + "  loss: mean_squared_error\n")

    assert topology.streams[0].labels == ()
    assert topology.jobs[0].loss == "mean_squared_error"


def test_digits_are_labels_without_quotes(load):
    assert load(VALID.replace("[zero, one, two]", "[0, 1, 10]")).streams[0].labels == ("0", "1", "10")


def test_a_dangling_reference_is_reported_at_its_value(problems):
    # The value stands in a line of its own here, so that the place is the one in the handbook's example.
    text = VALID.replace("bootstrap: [localhost:9092]", "bootstrap:\n    - localhost:9092\n").replace(
        "    edge: pi-a\n", "    edge:\n      pi-x\n"
    )
    text = text.replace("\n\n", "\n")

    assert problems(text) == ['topology.yaml:13:7: iot[0].edge: no edge is called "pi-x" (did you mean "pi-a"?)']


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("edge: pi-a", "edge: pi-x", '11:11: iot[0].edge: no edge is called "pi-x" (did you mean "pi-a"?)'),
        ("stream: digits\nedges", "stream: digit\nedges", '12:13: iot[0].stream: no stream is called "digit" (did you mean "digits"?)'),
        ("site: lab", "sight: lab", '2:1: sight: unknown key "sight" (did you mean "site"?)'),
        ("    edge: pi-a", "    edge: pi-a\n    codec: jpg", '12:12: iot[0].codec: "jpg" is not one of raw, jpeg, png (did you mean "jpeg"?)'),
        ("    edge: pi-a", "    edge: pi-a\n    edge: pi-b", "12:5: iot[0].edge: the key stands here twice, first in line 11"),
        ("site: lab", "site: no", '2:7: site: YAML reads no as a yes or no (put it in quotes: "no")'),
        ("[zero, one, two]", "[zero, on, two]", '8:20: streams.digits.labels[1]: YAML reads on as a yes or no (put it in quotes: "on")'),
        ("[zero, one, two]", "[zero, 007, two]", '8:20: streams.digits.labels[1]: YAML reads 007 as a number (put it in quotes: "007")'),
        ("site: lab", "site: 12:30:00", '2:7: site: YAML reads 12:30:00 as a number (put it in quotes: "12:30:00")'),
        ("site: lab", "site: 2026-01-01", '2:7: site: YAML reads 2026-01-01 as a date (put it in quotes: "2026-01-01")'),
        ("schema: 1", "schema: 2", "1:9: schema: expected 1, not 2"),
        ("[8, 8, 1]", "[8, 010, 1]", "7:25: streams.digits.sample.shape[1]: expected a whole number from 1 to 4096, not 010"),
        ("[8, 8, 1]", '[8, "8", 1]', "7:25: streams.digits.sample.shape[1]: expected a whole number from 1 to 4096 (write it without quotes)"),
        ("[8, 8, 1]", "[8, 8, 1, 1, 1]", "7:21: streams.digits.sample.shape: 5 entries; at most 4"),
        ("[zero, one, two]", "[zero, one, zero]", "8:25: streams.digits.labels[2]: the same as streams.digits.labels[0]"),
        ("[zero, one, two]", "[]", "8:13: streams.digits.labels: 0 entries; at least 1"),
        ("[localhost:9092]", "[localhost]", '4:15: kafka.bootstrap[0]: expected host:port, such as "broker.lan:9092"'),
        ("[localhost:9092]", "localhost:9092", '4:14: kafka.bootstrap: expected a list (such as ["localhost:9092"])'),
        ("streams:\n", "mqtt: {broker: 'tcp://broker'}\nstreams:\n", '5:16: mqtt.broker: expected host or host:port, such as "broker.lan:1883"'),
        ("streams:\n", "mqtt: {}\nstreams:\n", "5:7: mqtt.broker: is missing (the broker, host or host:port; the port is 1883, or 8883 with tls, if it is not given)"),
        ("streams:\n", "mqtt: {broker: b, usename: u}\nstreams:\n", '5:19: mqtt.usename: unknown key "usename" (did you mean "username"?)'),
        ("streams:\n", "mqtt: {broker: b, packet_bytes: 2MiB}\nstreams:\n", "5:33: mqtt.packet_bytes: expected 1KiB to 2MB"),
        ("streams:\n", "mqtt: {broker: b, window: 0}\nstreams:\n", "5:27: mqtt.window: expected a whole number from 1 to 1024, not 0"),
        ("streams:\n", "mqtt: {broker: b, tls: yes}\nstreams:\n", "5:24: mqtt.tls: expected a mapping with ca, certificate, key, key_password, or {}, not a single value"),
        ("    edge: pi-a", "    edge: pi-a\n    transport: mqqt", '12:16: iot[0].transport: "mqqt" is not one of kafka, mqtt (did you mean "mqtt"?)'),
        ("    edge: pi-a", "    edge: pi-a\n    id: seq", '12:9: iot[0].id: "seq" is not one of none, counter, text'),
        ("site: lab", "site: ../lab", "2:7: site: expected a name: 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit"),
        ("- name: pi-b", "- name: cam-01", '15:11: edges[1].name: "cam-01" is already the name of iot[0]'),
        ("- dense: 3", "- dense: 4", '23:7: training.model[1]: 4 units for the 3 labels of stream "digits" (write dense: 3)'),
        ("- dense: 3", "- dense", "23:7: training.model[1]: dense needs its settings (such as {dense: …})"),
        ("- dense: 3", "- dens: 3", '23:7: training.model[1]: unknown layer "dens" (did you mean "dense"?)'),
        ("    - flatten\n", "", "22:7: training.model[0]: dense takes one axis, not 8×8×1; put flatten before it"),
        ("- flatten", "- conv2d: {filters: 0, kernel: 3}\n    - flatten", "22:25: training.model[0].conv2d.filters: expected a whole number from 1 to 4096, not 0"),
        ("- flatten", "- max_pool2d: 9\n    - flatten", "22:7: training.model[0]: max_pool2d: a window of 9×9 does not fit into 8×8"),
        ("- flatten", "- dropout: 1\n    - flatten", "22:16: training.model[0].dropout: expected a number from 0 and below 1, not 1"),
        ("- flatten", "- global_avg_pool: 2\n    - flatten", "22:24: training.model[0].global_avg_pool: takes no settings (write the word alone)"),
        ("- flatten", "- group_norm: 2\n    - flatten", "22:7: training.model[0]: group_norm: 1 channel cannot be divided into 2 groups"),
        ("- flatten", "- conv1d: {filters: 2, kernel: 3}\n    - flatten", "22:7: training.model[0]: conv1d takes [length, channels], not 8×8×1"),
        ("    - dense: 3\n", "    - dense: 3\n  optimizer: {sgd: {nesterov: yes}}\n", "24:31: training.optimizer.sgd.nesterov: expected true or false"),
        ("    - dense: 3\n", "    - dense: 3\n  schedule: step\n", "24:13: training.schedule: step needs its settings (such as {step: …})"),
        ("    - dense: 3\n", "    - dense: 3\n  schedule: {step: {every: 1e-320}}\n", "24:28: training.schedule.step.every: expected a number from 0.001 and below 1e+06, not 1e-320"),
        ("    - dense: 3\n", "    - dense: 3\n  augment: {crop: 1.5}\n", "24:19: training.augment.crop: expected a number above 0 and at most 1, not 1.5"),
        ("    labels: [zero, one, two]\n", "", "7:5: streams.digits.labels: the training job needs labels to learn (or trains an autoencoder, with loss: mean_squared_error)"),
        ("- name: pi-b", "- {name: pi-b, prefetch: 32M}", '15:28: edges[1].prefetch: expected a size such as 32MiB, 1GB or 4096 (did you mean "MB"?)'),
        ("- name: pi-b", "- {name: pi-b, cach: {}}", '15:18: edges[1].cach: unknown key "cach" (did you mean "cache"?)'),
        ("    url: file:///srv/edged\n", "", "17:5: archive[0].url: is missing (the folder on the distributed file system)"),
    ],
)  # fmt: skip
def test_a_single_mistake_gives_one_exact_message(problems, old, new, expected):
    assert old in VALID

    assert problems(VALID.replace(old, new)) == [f"topology.yaml:{expected}"]


def test_all_problems_are_reported_at_once_in_the_files_order(problems):
    text = VALID.replace("site: lab", "site: no").replace("edge: pi-a", "edge: pi-x").replace("dense: 3", "dense: 4")

    assert [line.split(": ")[1] for line in problems(text)] == ["site", "iot[0].edge", "training.model[1]"]


def test_an_unreadable_value_is_not_reported_again_by_what_depends_on_it(problems):
    text = VALID.replace("- name: pi-a", "- name: on")

    assert [line.split(": ")[1] for line in problems(text)] == ["edges[0].name"]


def test_a_problem_carries_its_source_line(load):
    with pytest.raises(ConfigError) as raised:
        load(VALID.replace("edge: pi-a", "edge: pi-x"))

    assert raised.value.problems[0].source == "    edge: pi-x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "topology.yaml:1:1: the file is empty (config/ has examples to start from)"),
        ("- a\n", "topology.yaml:1:1: expected a mapping with schema, site, kafka, mqtt, streams, iot, edges, archive, log, training, not a list"),
        (b"site: \xff\n", "topology.yaml:1:7: the file is not UTF-8 (save it as UTF-8)"),
        ("site: a\x07b\n", "topology.yaml:1:8: the character U+0007 has no place in YAML"),
        ("x" * (1 << 20) + "x", "topology.yaml:1:1: the file is larger than 1 MiB"),
        ("[" * 1000, "topology.yaml:1:33: nested deeper than 32 levels"),
        ("[" + "1," * 20_000 + "]", "topology.yaml:1:40000: more than 20000 values in one file"),
        ("a: 1\n---\nb: 1\n", "topology.yaml:2:1: one file holds one document; this begins a second"),
        ("a: 1\n\tb: 2\n", "topology.yaml:2:1: a tab (indent with spaces, not tabs)"),
        ("kafka: {bootstrap: [${BROKER}]}\n", 'topology.yaml:1:22: ${…} outside quotes (put "${…}" in quotes)'),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_topology_is_refused_with_its_place(problems, text, expected):
    assert problems(text) == [expected]


def test_a_missing_file_is_a_problem(tmp_path):
    with pytest.raises(ConfigError, match="the file cannot be read: No such file"):
        topology_file.load(tmp_path / "none.yaml")


def test_a_folder_in_place_of_the_file_is_told_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"Is a directory \(give the file itself, such as topology.yaml\)"):
        topology_file.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("- name: pi-b", "- *first", "15:5: aliases (*) have no place"),
        ("- name: pi-b", "- &second\n    name: pi-b", "15:5: anchors (&) have no place"),
        ("site: lab", "site: !!python/name:os.system lab", "2:7: tags (!) have no place"),
        ("- name: pi-b", "- {<<: {}, name: pi-b}", "15:6: edges[1]: merge keys (<<) have no place"),
    ],
)
def test_what_makes_yaml_more_than_data_is_refused(problems, old, new, expected):
    lines = problems(VALID.replace(old, new))

    assert len(lines) == 1
    assert lines[0].startswith(f"topology.yaml:{expected}")


def test_a_bomb_of_aliases_is_refused_before_it_expands(problems):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))

    assert any("aliases (*)" in line for line in problems(bomb))


# several edges, one model


def test_compiled_kernels_are_used_unless_the_file_asks_for_numpy(load):
    assert [load(text).jobs[0].kernels for text in (VALID, VALID + "  kernels: numpy\n")] == ["auto", "numpy"]


GROUP = VALID + "  sampling: {}\n  exchange: {mode: all_reduce}\n"


def test_a_group_has_the_files_settings_and_defaults_for_the_rest(load):
    [job] = load(GROUP).jobs
    assert job.exchange == Exchange("all_reduce", "none", 0.2, 1, Outer(1.0, 0.0), None)
    assert job.reference_batch is None

    exchange = "{mode: parameter_server, compression: top_k, top_k: 1, sync_every: 8, outer: {learning_rate: 0.5, momentum: 0}, server: vault}"
    [job] = load(GROUP.replace("{mode: all_reduce}", exchange) + "  reference_batch: 64\n").jobs
    assert job.exchange == Exchange("parameter_server", "top_k", 1.0, 8, Outer(0.5, 0.0), "vault")
    assert job.reference_batch == 64


def test_the_default_sampling_is_uniform_in_a_group_and_stratified_for_an_edge_alone(load):
    assert [load(text).jobs[0].sampling.mode for text in (GROUP, GROUP.replace("  sampling: {}\n", ""))] == [
        "uniform"
    ] * 2
    assert load(GROUP.replace("all_reduce", "none")).jobs[0].sampling.mode == "stratified"
    assert load(VALID).jobs[0].sampling.mode == "stratified"
    assert load(VALID + "  sampling: {mode: uniform}\n").jobs[0].sampling.mode == "uniform"


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("mode: all_reduce", "mode: allreduce", "25:20: training.exchange.mode", '"allreduce" is not one of none, all_reduce, parameter_server (did you mean "all_reduce"?)'),
        ("mode: all_reduce", "mode: all_reduce, compression: fp8", "25:45: training.exchange.compression", '"fp8" is not one of none, fp16, int8, top_k'),
        ("mode: all_reduce", "mode: all_reduce, top_k: 0", "25:39: training.exchange.top_k", "expected a number above 0 and at most 1, not 0"),
        ("mode: all_reduce", "mode: all_reduce, sync_every: 0", "25:44: training.exchange.sync_every", "expected a whole number from 1 to 10000, not 0"),
        ("mode: all_reduce", "mode: all_reduce, outer: {momentum: 1}", "25:50: training.exchange.outer.momentum", "expected a number from 0 and below 1, not 1"),
        ("mode: all_reduce", "mode: all_reduce, outer: {learning_rate: 0}", "25:55: training.exchange.outer.learning_rate", "expected a number above 0 and below 10, not 0"),
        ("mode: all_reduce", "mode: all_reduce, server: a/b", "25:40: training.exchange.server", "expected a name"),
        ("mode: all_reduce", "mode: parameter_server, server: vlaut", "25:46: training.exchange.server", 'no edge and no archive is called "vlaut" (did you mean "vault"?)'),
        ("mode: all_reduce", "mode: all_reduce, sync: 4", "25:32: training.exchange.sync", 'unknown key "sync"'),
        ("sampling: {}", "sampling: {mode: stratified}", "24:20: training.sampling.mode", "stratified draws by what one edge's cache holds"),
        ("sampling: {}", "source: live", "24:11: training.source", "a group shares out epochs that the archive streams"),
        ("sampling: {}", "reference_batch: 0", "24:20: training.reference_batch", "expected a whole number from 1 to 65536, not 0"),
    ],
)  # fmt: skip
def test_a_groups_problem_is_reported_at_its_place(problems, old, new, path, message):
    (line,) = problems(GROUP.replace(old, new))

    assert line.startswith(f"topology.yaml:{path}: {message}")


# several jobs

SEVERAL = VALID.replace(
    VALID[VALID.index("training:") :],
    """\
training:
  - name: tiny
    stream: digits
    model: [flatten, {dense: 3}]
  - name: large
    stream: digits
    seed: 7
    model:
      - flatten
      - dense: 3
""",
)


def test_training_is_a_job_or_a_list_of_jobs(load):
    [alone] = load(VALID).jobs
    assert (alone.name, alone.stream) == ("", "digits")
    assert [(job.name, job.seed) for job in load(SEVERAL).jobs] == [("tiny", 0), ("large", 7)]
    first = SEVERAL[: SEVERAL.index("  - name: large")]
    assert [job.name for job in load(first).jobs] == ["tiny"]
    assert [job.name for job in load(first.replace("name: tiny\n    ", "")).jobs] == [""]
    assert [job.name for job in load(VALID + "  name: tiny\n").jobs] == ["tiny"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("      - dense: 3\n", "      - dense: 4\n",
         '28:9: training[1].model[1]: 4 units for the 3 labels of stream "digits" (write dense: 3)'),
        ("seed: 7", "seed: x", "25:11: training[1].seed: expected a whole number from 0 to 9223372036854775807, not x"),
        ("name: large", "name: Tiny",
         "23:11: training[1].name: \"Tiny\" is too like \"tiny\", the name of training[0] (names differ in more than upper and lower case or '.' and '_')"),
        ("name: large", "name: a/b",
         "23:11: training[1].name: expected a name: 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit"),
        ("  - name: large\n    stream", "  - stream", "23:5: training[1].name: is missing (each of several jobs has a name)"),
        ("name: tiny\n    stream: digits", "name: tiny\n    stream: digit",
         '21:13: training[0].stream: no stream is called "digit" (did you mean "digits"?)'),
    ],
)  # fmt: skip
def test_a_jobs_problem_is_reported_at_its_place_in_the_list(problems, old, new, problem):
    text = SEVERAL.replace(old, new)
    assert text != SEVERAL
    assert problems(text) == [f"topology.yaml:{problem}"]


def test_an_empty_list_of_jobs_is_reported(problems):
    [problem] = problems(VALID[: VALID.index("training:")] + "training: []\n")
    assert problem == "topology.yaml:19:11: training: 0 entries; at least 1"


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_that_is_none_keeps_nobody_waiting(tmp_path, kind):
    path = tmp_path / "topology.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="the file cannot be read: it is no regular file"):
        topology_file.load(path)
