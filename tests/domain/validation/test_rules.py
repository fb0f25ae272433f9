"""The rules between sections, on values alone."""

# ruff: noqa: E501, ISC004 - one case, one line, or two

from dataclasses import replace

import pytest

from edged.domain.nn.spec import Conv2d, Dense, Flatten, MaxPool2d, Relu
from edged.domain.topology import (
    MIB,
    Archive,
    Augment,
    Backbone,
    BackboneFile,
    Cache,
    Cosine,
    Deploy,
    Device,
    Edge,
    Kafka,
    Sampling,
    Security,
    Stream,
    Topology,
    Training,
)
from edged.domain.validation import rules

VALID = Topology(
    site="lab",
    kafka=Kafka(("localhost:9092", "127.0.0.1:9093", "[::1]:9094")),
    streams=(Stream("tiles", (8, 8, 1), "uint8", ("low", "high")), Stream("climate", (6,), "float32", ("calm",))),
    iot=(Device("cam", "pi-a", "tiles", "jpeg"), Device("mast", "pi-b", "climate")),
    edges=(Edge("pi-a"), Edge("pi-b")),
    archive=(Archive("vault", "file:///srv/edged"),),
    jobs=(Training("tiles", (Flatten(), Dense(2))),),
)
SECURE = Security("SASL_SSL", "PLAIN", "u", "p", "/ca.pem")
REMOTE = ("broker.lan:9092",)


def with_training(**changes):
    return replace(VALID, jobs=(replace(VALID.jobs[0], **changes),))


def with_device(**changes):
    return replace(VALID, iot=(replace(VALID.iot[0], **changes), VALID.iot[1]))


def with_stream(**changes):
    return replace(VALID, streams=(replace(VALID.streams[0], **changes), VALID.streams[1]))


def with_edge(**changes):
    return replace(VALID, edges=(replace(VALID.edges[0], **changes), VALID.edges[1]))


def with_security(bootstrap=REMOTE, **changes):
    return replace(VALID, kafka=Kafka(bootstrap, replace(SECURE, **changes)))


def told(topology):
    return [(finding.path, finding.message) for finding in rules.problems(topology)]


def test_a_valid_topology_has_neither_problems_nor_warnings():
    assert rules.problems(VALID) == []
    assert rules.warnings(VALID) == []


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (with_device(edge="pi-x"), "iot[0].edge", 'no edge is called "pi-x"'),
        (with_device(stream="tilse"), "iot[0].stream", 'no stream is called "tilse"'),
        (with_training(stream="x"), "training[0].stream", 'no stream is called "x"'),
        (with_device(name="pi-a"), "edges[0].name", '"pi-a" is already the name of iot[0]'),
        (with_device(name="PI-A"), "edges[0].name", '"pi-a" is too like "PI-A", the name of iot[0]'),
        (replace(VALID, archive=(Archive("pi_b.", "file:///x"),), edges=(Edge("pi-a"), Edge("pi-b"), Edge("pi.b."))),
         "archive[0].name", '"pi_b." is too like "pi.b.", the name of edges[2]'),
        (replace(VALID, streams=(*VALID.streams, replace(VALID.streams[0], name="Tiles"))),
         "streams.Tiles", '"Tiles" is too like "tiles", the name of streams.tiles'),
        (with_stream(dtype="float32"), "iot[0].codec",
         "jpeg needs uint8 samples of shape [height, width, 1] or [height, width, 3], not 8×8×1 float32"),
        (with_stream(shape=(8, 8, 2)), "iot[0].codec",
         "jpeg needs uint8 samples of shape [height, width, 1] or [height, width, 3], not 8×8×2 uint8"),
        (with_stream(shape=(64,)), "iot[0].codec",
         "jpeg needs uint8 samples of shape [height, width, 1] or [height, width, 3], not 64 uint8"),
        (with_training(model=(Dense(2),)), "training[0].model[0]", "dense takes one axis, not 8×8×1; put flatten before it"),
        (with_training(model=(Flatten(), Conv2d(1, (3, 3)), Dense(2))), "training[0].model[1]",
         "conv2d takes [height, width, channels], not 64"),
        (with_training(model=(Flatten(), Dense(3))), "training[0].model[1]", '3 units for the 2 labels of stream "tiles"'),
        (with_training(model=(Flatten(), Dense(2), Relu())), "training[0].model[2]",
         "the model ends with a dense layer, one unit for each label"),
        (with_training(class_weights=(1.0, 2.0, 3.0)), "training[0].class_weights", '3 weights for the 2 labels of stream "tiles"'),
        (with_training(class_weights=(0.0, 0.0)), "training[0].class_weights", "all are 0: nothing would be learned"),
        (with_training(class_weights=(1.0, 2.0), loss="mean_squared_error", model=(Flatten(), Dense(64))), "training[0].class_weights",
         "mean_squared_error knows no classes"),
        (with_training(loss="mean_squared_error"), "training[0].model[1]",
         "with mean_squared_error the model gives its input back: 64 numbers for 8×8×1"),
        (with_stream(labels=()), "streams.tiles.labels", "the training job needs labels to learn"),
        (with_training(epochs=3, schedule=Cosine(warmup=4)), "training[0].schedule", "a warm-up of 4 epochs does not end within 3"),
        (with_training(augment=Augment(shift=8)), "training[0].augment.shift", "it moves samples of 8×8×1 out of sight"),
        (with_training(stream="climate", model=(Dense(1),), augment=Augment("both")), "training[0].augment",
         "only [height, width, channels] and [length, channels] can be varied, not 6"),
        (with_training(model=(Flatten(), Dense(2, "relu"))), "training[0].model[1]",
         "the last layer has no activation: softmax follows it by itself"),
        (with_training(live_epoch=100), "training[0].live_epoch",
         "an epoch of 100 samples is shorter than one batch of 128"),
        (with_edge(prefetch=2 * MIB), "edges[0].prefetch", "at least 4.0 MiB: two messages of an epoch"),
        (with_edge(cache=Cache(memory=3 * MIB, disk=4 * MIB)), "edges[0].cache",
         "memory and disk together hold 7.0 MiB, less than one window of an epoch, half of prefetch: 8.0 MiB"),
        (with_training(sampling=Sampling("uniform", hit_share=0.5)), "training[0].sampling.hit_share", "uniform does not use it"),
        (with_training(sampling=Sampling("stratified", hit_share=1.0)), "training[0].sampling.hit_share",
         "with all draws from the cache nothing would ever be fetched"),
        (with_edge(cache=Cache(memory=200 * MIB)), "edges[0].memory_limit",
         "the daemon needs about 328.0 MiB (base 110.0 MiB + model 0.0 MiB + prefetch 16.0 MiB + cache 202.0 MiB),"
         " the limit is 256.0 MiB"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_told_once_at_its_place(topology, path, message):
    assert told(topology) == [(path, message)]


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_exactly_one_archive_and_the_reason_is_given(count):
    archive = tuple(Archive(f"vault-{i}", "file:///x") for i in range(count))

    assert told(replace(VALID, archive=archive)) == [
        (
            "archive",
            f"exactly one archive node, not {count}: one node serves, and the file system behind it is what is"
            " distributed",
        )
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file://srv/edged", "file:// takes an absolute path"),
        ("file:srv", "file:// takes an absolute path"),
        ("/srv/edged", "the archive's URL begins with file://, hdfs:// or s3://"),
        ("ftp://host/x", "the archive's URL begins with file://, hdfs:// or s3://"),
        ("file:///srv?x=1", "the archive's URL has no '?' and no '#'"),
        ("s3://key:secret@bucket/x", "a URL holds no user name or password here"),
        ("file://[", "it is not a URL"),
    ],
)
def test_the_archives_url_is_one_that_can_be_written_to(url, message):
    assert ("archive[0].url", message) in told(replace(VALID, archive=(Archive("vault", url),)))


def test_a_raw_sample_fits_into_one_message():
    largest = replace(VALID.streams[1], shape=(256, 256, 3), dtype="float32")

    assert told(replace(VALID, streams=(VALID.streams[0], largest))) == []
    assert told(replace(VALID, streams=(VALID.streams[0], replace(largest, shape=(256, 256, 4))))) == [
        (
            "iot[1].codec",
            "a raw sample of 256×256×4 float32 has 1048576 bytes; at most 786432 fit into one message",
        )
    ]


def test_prefetch_holds_two_samples():
    large = replace(VALID.streams[0], shape=(4096, 4096, 1))
    topology = replace(with_edge(prefetch=31 * MIB), streams=(large, VALID.streams[1]))

    assert ("edges[0].prefetch", 'at least two samples of stream "tiles", 32.0 MiB') in told(topology)


def test_a_stream_and_an_edge_do_not_join_to_anothers_topic():
    """ "a" on "b.c" and "a.b" on "c" would both be <site>.archive.a.b.c."""
    streams = tuple(Stream(name, (4,), "uint8", ("x",)) for name in ("a", "a.b"))
    topology = replace(
        VALID,
        streams=streams,
        edges=(Edge("b.c"), Edge("c")),
        iot=(Device("one", "b.c", "a"), Device("two", "c", "a.b")),
        jobs=(),
    )

    ((path, message),) = told(topology)

    assert path == "streams.a.b"
    assert message.startswith('"lab.archive.a.b.c" would carry stream "a.b" of edge "c" and another')


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (with_security(mechanism=None), "kafka.security", "SASL_SSL needs mechanism"),
        (with_security(username=None, password=None), "kafka.security", "SASL_SSL needs username and password"),
        (with_security(protocol="SSL"), "kafka.security.mechanism", "SSL does not use it"),
        (with_security(protocol="SASL_PLAINTEXT", ca=None), "kafka.security.mechanism",
         "PLAIN would send the password unencrypted over the network"),
        (with_security(protocol="SASL_PLAINTEXT", mechanism="SCRAM-SHA-512"), "kafka.security.ca",
         "SASL_PLAINTEXT does not use it"),
        (with_security(certificate="/c"), "kafka.security.certificate", "it is of use only with its key"),
        (with_security(key="/k"), "kafka.security.key", "it is of use only with its certificate"),
    ],
)  # fmt: skip
def test_security_settings_go_together(topology, path, message):
    assert (path, message) in told(topology)


@pytest.mark.parametrize(
    "topology",
    [
        with_security(),
        with_security(certificate="/c", key="/k"),
        with_security(protocol="SSL", mechanism=None, username=None, password=None, certificate="/c", key="/k"),
        with_security(protocol="SASL_PLAINTEXT", mechanism="SCRAM-SHA-256", ca=None),
        with_security(bootstrap=("localhost:9092",), protocol="SASL_PLAINTEXT", ca=None),
    ],
)
def test_security_settings_that_make_sense_are_taken(topology):
    assert told(topology) == []


@pytest.mark.parametrize(
    ("topology", "path"),
    [
        (with_device(transport="mqtt"), "iot[0].transport"),
        (replace(VALID, archive=(Archive("vault", "hdfs://namenode:9870/edged"),)), "archive[0].url"),
        (replace(VALID, archive=(Archive("vault", "s3://bucket/edged"),)), "archive[0].url"),
    ],
)
def test_what_this_version_cannot_carry_out_is_refused(topology, path):
    ((where, message),) = told(topology)

    assert where == path
    assert message.startswith("this version ")


@pytest.mark.parametrize("hit_share", [None, 0.0, 0.99])
def test_stratified_sampling_takes_any_share_of_hits_below_one(hit_share):
    assert told(with_training(sampling=Sampling("stratified", hit_share))) == []


@pytest.mark.parametrize("cache", [Cache(0, 0), Cache(8 * MIB, 0), Cache(0, 8 * MIB), Cache(4 * MIB, 4 * MIB)])
def test_a_cache_is_none_or_holds_a_window(cache):
    assert told(with_edge(cache=cache)) == []


def test_a_cache_too_small_is_told_with_what_it_needs():
    [finding] = rules.problems(with_edge(cache=Cache(0, 1 * MIB), prefetch=15 * MIB))
    assert finding.suggestion == "give it 8MiB, make prefetch smaller, or set both to 0"


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (replace(VALID, kafka=Kafka(REMOTE)), "kafka.bootstrap", "samples and models go over the network unencrypted"),
        (replace(VALID, iot=VALID.iot[:1]), "edges[1].name", "no device sends to this edge"),
        (with_training(source="live"), "edges[1].name",
         'none of its devices sends the stream "tiles" that it trains on'),
        (with_training(deploy=Deploy("int8"), test_samples=0), "training[0].deploy.format",
         "without held-out samples to calibrate by, the companion gets float32 models"),
    ],
)  # fmt: skip
def test_what_works_but_is_hardly_meant_is_a_warning(topology, path, message):
    assert told(topology) == []
    assert [(finding.path, finding.message) for finding in rules.warnings(topology)] == [(path, message)]


def test_a_suggestion_names_the_nearest_name():
    (finding,) = rules.problems(with_device(edge="pi-x"))

    assert finding.suggestion == 'did you mean "pi-a"?'


BACKBONE = Backbone("features.tflite", file=BackboneFile((8, 8, 1), (5,), "0" * 64))


def test_a_model_on_a_backbone_takes_its_features():
    assert told(with_training(backbone=BACKBONE, model=(Dense(2),))) == []
    ((where, message),) = told(with_training(backbone=BACKBONE, model=(MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(2))))
    assert where == "training[0].model[0]"
    assert message == "max_pool2d takes [height, width, channels], not 5"


def test_without_a_look_into_the_backbones_file_the_model_is_not_judged():
    unread = replace(BACKBONE, file=None)
    assert told(with_training(backbone=unread, model=(MaxPool2d((2, 2), (2, 2)), Dense(2)))) == []


@pytest.mark.parametrize(("changes", "path", "message"), [
    ({"backbone": replace(BACKBONE, file=BackboneFile((28, 28, 1), (5,), ""))}, "training[0].backbone.model",
     "it takes samples of 28×28×1, the stream has 8×8×1"),
    ({"augment": Augment(shift=2)}, "training[0].backbone",
     "features are computed once for each sample, so samples cannot be augmented"),
    ({"deploy": Deploy("int8")}, "training[0].deploy.format",
     "this version does not make int8 models with a backbone yet"),
])  # fmt: skip
def test_what_does_not_go_with_a_backbone_is_refused(changes, path, message):
    assert told(with_training(**{"backbone": BACKBONE, "model": (Dense(2),), **changes})) == [(path, message)]
