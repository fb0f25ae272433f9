"""A job resolved against its topology. Its digest: see tests/test_pinned_names.py and tests/domain/training."""

from dataclasses import replace

import pytest

from edged.domain.nn.spec import Dense
from edged.domain.topology import (
    Archive,
    Backbone,
    BackboneFile,
    Device,
    Edge,
    Exchange,
    Kafka,
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
