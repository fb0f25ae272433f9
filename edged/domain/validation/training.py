"""Training jobs: the model's shapes, the loss, schedules, sampling, augmentation."""

import math
from collections.abc import Iterator

from edged.domain.counted import counted
from edged.domain.nn.spec import Dense, LayerSpec, Shape, ShapeError, shape_text
from edged.domain.topology import Augment, Stream, Topology, Training
from edged.domain.validation.finding import Finding
from edged.domain.validation.names import collisions
from edged.domain.validation.nodes import no_stream


def problems(topology: Topology) -> Iterator[Finding]:
    """See `rules.problems`."""
    yield from _job_names(topology)
    streams = {stream.name: stream for stream in topology.streams}
    for i, job in enumerate(topology.jobs):
        at = f"training[{i}]"
        if job.stream in streams:
            yield from _job(at, job, streams[job.stream])
        else:
            yield no_stream(f"{at}.stream", job.stream, streams)


def _job_names(topology: Topology) -> Iterator[Finding]:
    named = [(f"training[{i}].name", job.name) for i, job in enumerate(topology.jobs)]
    if len(named) > 1:
        for path, name in named:
            if not name:
                yield Finding(path, "is missing", "each of several jobs has a name", needs=(path,))
    yield from collisions((path, name) for path, name in named if name)


def _job(at: str, training: Training, stream: Stream) -> Iterator[Finding]:
    yield from _backbone(at, training, stream)
    yield from _model(at, training, stream)
    yield from _loss(at, training, stream)
    yield from _schedule(at, training)
    yield from _sampling(at, training)
    yield from _augment(at, training, stream)
    if training.live_epoch < training.global_batch:
        yield Finding(
            f"{at}.live_epoch",
            f"an epoch of {counted(training.live_epoch, 'sample')} is shorter than one batch of"
            f" {training.global_batch}",
            needs=(f"{at}.global_batch",),
        )


def _backbone(at: str, training: Training, stream: Stream) -> Iterator[Finding]:
    backbone = training.backbone
    if backbone is None:
        return
    if backbone.file is not None and backbone.file.sample_shape != stream.shape:
        yield Finding(
            f"{at}.backbone.model",
            f"it takes samples of {shape_text(backbone.file.sample_shape)}, the stream has {shape_text(stream.shape)}",
            needs=(f"streams.{stream.name}.sample",),
        )
    if training.loss == "mean_squared_error":
        yield Finding(
            f"{at}.backbone",
            "an autoencoder gives its samples back, which features are not",
            needs=(f"{at}.loss",),
        )
    if training.augment != Augment():
        yield Finding(
            f"{at}.backbone",
            "features are computed once for each sample, so samples cannot be augmented",
            "leave augment out",
            (f"{at}.augment",),
        )


def _model(at: str, training: Training, stream: Stream) -> Iterator[Finding]:
    needs = (f"{at}.stream", f"streams.{stream.name}", f"{at}.model")
    input_shape = training.input_shape(stream)
    if input_shape is None:
        return
    shape: Shape = input_shape
    for i, layer in enumerate(training.model):
        try:
            shape = layer.output_shape(shape)
        except ShapeError as error:
            yield Finding(f"{at}.model[{i}]", str(error), needs=needs)
            return
    last_at = f"{at}.model[{len(training.model) - 1}]"
    last = training.model[-1] if training.model else None
    if training.loss == "mean_squared_error":
        yield from _autoencoder(last_at, shape, last, stream, (*needs, f"{at}.loss"))
    else:
        yield from _classifier(last_at, last, stream, (*needs, f"{at}.loss"))


def _autoencoder(
    at: str, output: Shape, last: LayerSpec | None, stream: Stream, needs: tuple[str, ...]
) -> Iterator[Finding]:
    size = math.prod(stream.shape)
    if not isinstance(last, Dense) or output != (size,):
        yield Finding(
            at,
            f"with mean_squared_error the model gives its input back: {size} numbers for {shape_text(stream.shape)}",
            f"end it with dense: {size}",
            needs,
        )


def _classifier(at: str, last: LayerSpec | None, stream: Stream, needs: tuple[str, ...]) -> Iterator[Finding]:
    classes = len(stream.labels)
    if not classes:
        yield Finding(
            f"streams.{stream.name}.labels",
            "the training job needs labels to learn",
            "or trains an autoencoder, with loss: mean_squared_error",
            needs,
        )
    elif not isinstance(last, Dense):
        yield Finding(at, "the model ends with a dense layer, one unit for each label", f"add dense: {classes}", needs)
    elif last.activation != "none":
        yield Finding(at, "the last layer has no activation: softmax follows it by itself", needs=needs)
    elif last.units != classes:
        yield Finding(
            at,
            f'{counted(last.units, "unit")} for the {counted(classes, "label")} of stream "{stream.name}"',
            f"write dense: {classes}",
            needs,
        )


def _loss(at: str, training: Training, stream: Stream) -> Iterator[Finding]:
    weights, needs = training.class_weights, (f"{at}.loss", f"{at}.stream", f"streams.{stream.name}")
    if weights and training.loss != "cross_entropy":
        yield Finding(f"{at}.class_weights", f"{training.loss} knows no classes", "leave them out", needs)
    elif weights and len(weights) != len(stream.labels):
        yield Finding(
            f"{at}.class_weights",
            f"{counted(len(weights), 'weight')} for the {counted(len(stream.labels), 'label')} of stream"
            f' "{stream.name}"',
            needs=needs,
        )
    elif weights and not any(weights):
        yield Finding(f"{at}.class_weights", "all are 0: nothing would be learned", needs=needs)


def _schedule(at: str, training: Training) -> Iterator[Finding]:
    if training.source != "live" and training.schedule.warmup > training.epochs:
        yield Finding(
            f"{at}.schedule",
            f"a warm-up of {training.schedule.warmup:g} does not end within {counted(training.epochs, 'epoch')}",
            needs=(f"{at}.epochs", f"{at}.source"),
        )


def _sampling(at: str, training: Training) -> Iterator[Finding]:
    sampling = training.sampling
    if sampling.hit_share is None:
        return
    if sampling.mode != "stratified":
        reason = f"{sampling.mode} does not use it"
        yield Finding(f"{at}.sampling.hit_share", reason, "leave it out", (f"{at}.sampling.mode",))
    elif sampling.hit_share >= 1:
        yield Finding(
            f"{at}.sampling.hit_share", "with all draws from the cache nothing would ever be fetched", "set it below 1"
        )


def _augment(at: str, training: Training, stream: Stream) -> Iterator[Finding]:
    augment = training.augment
    if augment == Augment():
        return
    needs = (f"{at}.stream", f"streams.{stream.name}")
    if len(stream.shape) not in {2, 3}:
        yield Finding(
            f"{at}.augment",
            f"only [height, width, channels] and [length, channels] can be varied, not {shape_text(stream.shape)}",
            needs=needs,
        )
    elif augment.shift >= max(stream.shape[:-1]):
        yield Finding(
            f"{at}.augment.shift", f"it moves samples of {shape_text(stream.shape)} out of sight", needs=needs
        )


def warnings(topology: Topology) -> Iterator[Finding]:
    """See `rules.warnings`."""
    for i, job in enumerate(topology.jobs):
        if job.deploy.format == "int8" and not job.test_samples:
            yield Finding(
                f"training[{i}].deploy.format",
                "without held-out samples to calibrate by, the companion gets float32 models",
                "set test_samples",
            )
