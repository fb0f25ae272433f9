"""A job resolved against its topology, and what its digest depends on. See also: tests/test_pinned_names.py."""

from dataclasses import replace

import pytest

from edged.domain.nn.spec import Dense, Flatten
from edged.domain.topology import (
    Adam,
    Archive,
    Augment,
    Backbone,
    BackboneFile,
    Cosine,
    Device,
    Edge,
    Exchange,
    Kafka,
    Outer,
    Sgd,
    Stream,
    Topology,
    Training,
)
from edged.domain.topology.job import job_digest

TILES, CLIMATE = Stream("tiles", (4,), "uint8", ("x", "y")), Stream("climate", (6,), "float32", ("x", "y"))
ALONE = Training("tiles", (Dense(2),), name="small")
SERVED = Training("climate", (Dense(2),), exchange=Exchange("parameter_server"), name="shared")
SITE = Topology(
    site="lab",
    kafka=Kafka(("localhost:9092",)),
    streams=(TILES, CLIMATE),
    iot=(Device("cam", "pi-a", "tiles"),),
    edges=(Edge("pi-a"), Edge("pi-b")),
    archive=(Archive("vault", "file:///srv"),),
    jobs=(ALONE, SERVED),
)


def test_a_job_has_its_stream_shape_and_digest():
    job = SITE.resolve(SERVED)

    assert (job.name, job.training, job.stream, job.input_shape) == ("shared", SERVED, CLIMATE, (6,))
    assert job.digest == job_digest(CLIMATE, SERVED)


def test_a_job_has_its_members_server_and_topics():
    job = SITE.resolve(SERVED)

    assert (job.members, job.server) == (("pi-a", "pi-b"), "vault")
    assert (job.train_topic, job.gradients_topic, job.checkpoints_topic) == (
        "lab.train.shared",
        "lab.gradients.shared",
        "lab.checkpoints.shared",
    )


def test_a_model_on_a_backbone_takes_its_features():
    file = BackboneFile((4,), (3,), "0" * 64)
    job = SITE.resolve(replace(ALONE, backbone=Backbone("b.tflite", file=file)))

    assert (job.input_shape, job.stream.shape) == ((3,), (4,))


def test_a_backbone_that_was_not_looked_up_cannot_be_resolved():
    with pytest.raises(AssertionError, match="looked up"):
        SITE.resolve(replace(ALONE, backbone=Backbone("b.tflite")))


def test_an_edge_has_a_part_in_all_jobs_the_archive_only_in_those_that_it_serves():
    assert [job.name for job in SITE.resolved_jobs("pi-b")] == ["small", "shared"]
    assert [job.name for job in SITE.resolved_jobs("vault")] == ["shared"]


def test_an_archive_without_a_backbones_file_resolves_the_jobs_that_it_serves():
    site = replace(SITE, jobs=(replace(ALONE, backbone=Backbone("b.tflite")), SERVED))

    assert [job.name for job in site.resolved_jobs("vault")] == ["shared"]


STREAM = Stream("fashion", (2, 2, 1), "uint8", ("a", "b"))
TRAINING = Training("fashion", (Flatten(), Dense(2)))
JOB = job_digest(STREAM, TRAINING)


@pytest.mark.parametrize(
    ("stream", "training"),
    [
        (replace(STREAM, labels=("b", "a")), TRAINING),
        (replace(STREAM, shape=(4, 1, 1)), TRAINING),
        (STREAM, replace(TRAINING, model=(Flatten(), Dense(2, "relu")))),
        (STREAM, replace(TRAINING, optimizer=Sgd(0.1))),
        (STREAM, replace(TRAINING, global_batch=64)),
        (STREAM, replace(TRAINING, seed=1)),
        (STREAM, replace(TRAINING, optimizer=Sgd(nesterov=True))),
        (STREAM, replace(TRAINING, optimizer=Adam(0.05))),
        (STREAM, replace(TRAINING, schedule=Cosine())),
        (STREAM, replace(TRAINING, schedule=Cosine(warmup=1))),
        (STREAM, replace(TRAINING, weight_decay=1e-4)),
        (STREAM, replace(TRAINING, clip_norm=1.0)),
        (STREAM, replace(TRAINING, augment=Augment("horizontal"))),
        (STREAM, replace(TRAINING, class_weights=(1.0, 2.0))),
        (STREAM, replace(TRAINING, loss="mean_squared_error")),
        (STREAM, replace(TRAINING, test_fraction=0.2)),
        (STREAM, replace(TRAINING, reference_batch=32)),
        (STREAM, replace(TRAINING, exchange=Exchange("all_reduce"))),
    ],
)
def test_the_digest_changes_with_everything_that_a_checkpoint_depends_on(stream, training):
    assert job_digest(stream, training) != JOB


def test_the_digest_does_not_depend_on_epochs_checkpoints_the_source_or_who_computes():
    training = replace(TRAINING, epochs=99, checkpoint_s=1, source="both", micro_batch=4, kernels="numpy")
    assert job_digest(STREAM, training) == JOB


def test_the_digest_depends_on_the_exchange_but_not_on_who_combines_the_gradients():
    def digest(*mode, **settings):
        return job_digest(STREAM, replace(TRAINING, exchange=Exchange(*mode, **settings)))

    jobs = [
        digest("all_reduce"),
        digest("all_reduce", "int8"),
        digest("all_reduce", "top_k"),
        digest("all_reduce", "top_k", top_k=0.1),
        digest("all_reduce", sync_every=4),
        digest("all_reduce", sync_every=4, outer=Outer(momentum=0.5)),
    ]
    assert len({*jobs}) == len(jobs)
    assert digest("parameter_server", server="vault") == digest("all_reduce")
