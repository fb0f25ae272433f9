"""The rules that a topology keeps beyond what each single value may be.

Pure: a Topology in, findings out; where the values stand in the file is the loader's business. Ranges of single
values are part of the file's description (`config_yaml.description`). A topology under test may be half-read:
references may dangle, so look-ups here never assume that a name exists.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from edged.domain.nn.spec import Dense, LayerSpec, Shape, ShapeError
from edged.domain.samples.pack import MOST_BYTES
from edged.domain.suggest import did_you_mean
from edged.domain.topology import MIB, Augment, Device, Edge, Stream, Topology, Training
from edged.domain.topology.topics import prediction_topics
from edged.domain.validation import group, unsupported
from edged.domain.validation.finding import Finding
from edged.domain.validation.memory import Budget, ModelMemory, edge_budget, mebibytes, training_memory

LEAST_PREFETCH = 4 * MIB
"""Two messages of an epoch, so that one can be trained on while the next arrives."""

ARCHIVE_SCHEMES = ("file", "hdfs", "webhdfs", "s3")

_BYTES_OF = {"uint8": 1, "float32": 4}
_NODE_NAMES = ("iot[].name", "edges[].name", "archive[].name")


def problems(topology: Topology) -> list[Finding]:
    """All that keeps the topology from being used; empty when it is valid."""
    return [
        *_names(topology),
        *_topics(topology),
        *_security(topology),
        *_devices(topology),
        *_archive(topology),
        *_training(topology),
        *group.problems(topology),
        *_budgets(topology),
        *unsupported.findings(topology),
    ]


def warnings(topology: Topology) -> list[Finding]:
    """What works but is probably not meant. For a topology without problems."""
    return [
        *_plain_network(topology),
        *_idle_edges(topology),
        *_calibration(topology),
        *group.warnings(topology),
    ]


def sample_bytes(stream: Stream) -> int:
    """Bytes of one raw sample."""
    return math.prod(stream.shape) * _BYTES_OF[stream.dtype]


# names


def _names(topology: Topology) -> Iterator[Finding]:
    nodes = [
        *((f"iot[{i}].name", device.name) for i, device in enumerate(topology.iot)),
        *((f"edges[{i}].name", edge.name) for i, edge in enumerate(topology.edges)),
        *((f"archive[{i}].name", archive.name) for i, archive in enumerate(topology.archive)),
    ]
    streams = [(f"streams.{stream.name}", stream.name) for stream in topology.streams]
    yield from _collisions(nodes)
    yield from _collisions(streams)


def _collisions(named: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Kafka's metrics do not tell '.' from '_', some file systems not 'a' from 'A'."""
    seen: dict[str, tuple[str, str]] = {}
    for path, name in named:
        first_path, first = seen.setdefault(_folded(name), (path, name))
        if first_path == path:
            continue
        if first == name:
            yield Finding(path, f'"{name}" is already the name of {_owner(first_path)}', needs=(first_path,))
        else:
            yield Finding(
                path,
                f'"{name}" is too like "{first}", the name of {_owner(first_path)}',
                "names differ in more than upper and lower case or '.' and '_'",
                needs=(first_path,),
            )


def _folded(name: str) -> str:
    return name.lower().replace(".", "_")


def _owner(path: str) -> str:
    return path.removesuffix(".name")


def _topics(topology: Topology) -> Iterator[Finding]:
    """Distinct names can still join to one topic: stream a on edge b.c, stream a.b on edge c."""
    users_of: dict[str, dict[tuple[str, str], tuple[str, str]]] = defaultdict(dict)
    for device in topology.iot:
        topic = _folded(topology.archive_topic(device.stream, device.edge))
        users_of[topic].setdefault((_folded(device.stream), _folded(device.edge)), (device.stream, device.edge))
    for users in users_of.values():
        if len(users) > 1:
            stream, edge = list(users.values())[1]
            yield Finding(
                f"streams.{stream}",
                f'"{topology.archive_topic(stream, edge)}" would carry stream "{stream}" of edge "{edge}" and another'
                " stream of another edge",
                "leave the '.' out of one of the names",
                needs=("streams", *_NODE_NAMES),
            )
    yield from _prediction_topics(topology)


def _prediction_topics(topology: Topology) -> Iterator[Finding]:
    """Likewise job b on edge a and job c on edge a.b, or the topic of edge a.b where no job has a name."""
    seen: set[str] = set()
    for i, edge in enumerate(topology.edges):
        own = {_folded(topic) for topic in prediction_topics(topology, edge.name)}
        if not own.isdisjoint(seen):
            yield Finding(
                f"edges[{i}].name",
                "predictions of one of its jobs would go to the topic of another edge's",
                "leave the '.' out of one of the names",
                needs=(*_NODE_NAMES, "training"),
            )
        seen |= own


# kafka


def _security(topology: Topology) -> Iterator[Finding]:
    security = topology.kafka.security
    at = "kafka.security"
    needs = (f"{at}.protocol",)
    sasl = {"mechanism": security.mechanism, "username": security.username, "password": security.password}
    if security.protocol.startswith("SASL"):
        missing = [key for key, value in sasl.items() if value is None]
        if missing:
            yield Finding(
                at,
                f"{security.protocol} needs {' and '.join(missing)}",
                needs=(*needs, *(f"{at}.{key}" for key in missing)),
            )
    else:
        for key, value in sasl.items():
            if value is not None:
                yield Finding(
                    f"{at}.{key}",
                    f"{security.protocol} does not use it",
                    "use protocol: SASL_SSL or leave it out",
                    needs,
                )
    if security.protocol == "SASL_PLAINTEXT" and security.mechanism == "PLAIN" and not topology.kafka.is_loopback:
        yield Finding(
            f"{at}.mechanism",
            "PLAIN would send the password unencrypted over the network",
            "use protocol: SASL_SSL",
            (*needs, "kafka.bootstrap"),
        )
    yield from _certificates(topology)


def _certificates(topology: Topology) -> Iterator[Finding]:
    security = topology.kafka.security
    at = "kafka.security"
    files = {"ca": security.ca, "certificate": security.certificate, "key": security.key}
    if not security.protocol.endswith("SSL"):
        for name, value in files.items():
            if value is not None:
                yield Finding(
                    f"{at}.{name}",
                    f"{security.protocol} does not use it",
                    "use protocol: SSL or SASL_SSL, or leave it out",
                    (f"{at}.protocol",),
                )
        return
    for name, other in (("certificate", "key"), ("key", "certificate")):
        if files[name] is not None and files[other] is None:
            yield Finding(f"{at}.{name}", f"it is of use only with its {other}", f"add {other}", (f"{at}.{other}",))


# devices and archive


def _devices(topology: Topology) -> Iterator[Finding]:
    edges = [edge.name for edge in topology.edges]
    streams = {stream.name: stream for stream in topology.streams}
    for i, device in enumerate(topology.iot):
        at = f"iot[{i}]"
        if device.edge not in edges:
            yield Finding(
                f"{at}.edge",
                f'no edge is called "{device.edge}"',
                did_you_mean(device.edge, edges),
                ("edges[].name",),
            )
        stream = streams.get(device.stream)
        if stream is None:
            yield _no_stream(f"{at}.stream", device.stream, streams)
        else:
            yield from _codec(f"{at}.codec", device, stream)


def _no_stream(path: str, name: str, known: Iterable[str]) -> Finding:
    return Finding(path, f'no stream is called "{name}"', did_you_mean(name, known), ("streams",))


def _codec(path: str, device: Device, stream: Stream) -> Iterator[Finding]:
    needs = (path.removesuffix(".codec") + ".stream", f"streams.{stream.name}.sample")
    shape = _shape_text(stream.shape)
    if device.codec == "raw":
        if sample_bytes(stream) > MOST_BYTES:
            yield Finding(
                path,
                f"a raw sample of {shape} {stream.dtype} has {sample_bytes(stream)} bytes; at most {MOST_BYTES} fit"
                " into one message",
                "use codec: jpeg or png, or a smaller shape",
                needs,
            )
    elif stream.dtype != "uint8" or len(stream.shape) != 3 or stream.shape[2] not in {1, 3}:
        yield Finding(
            path,
            f"{device.codec} needs uint8 samples of shape [height, width, 1] or [height, width, 3], not"
            f" {shape} {stream.dtype}",
            "use codec: raw",
            needs,
        )


def _archive(topology: Topology) -> Iterator[Finding]:
    if len(topology.archive) != 1:
        yield Finding(
            "archive",
            f"exactly one archive node, not {len(topology.archive)}: one node serves, and the file system behind it is"
            " what is distributed",
        )
    for i, archive in enumerate(topology.archive):
        yield from _url(f"archive[{i}].url", archive.url)


def _url(path: str, url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(url)
        has_user = "@" in parts.netloc
    except ValueError:
        yield Finding(path, "it is not a URL", "such as file:///srv/edged")
        return
    if parts.scheme not in ARCHIVE_SCHEMES:
        yield Finding(path, "the archive's URL begins with file://, hdfs:// or s3://", "such as file:///srv/edged")
    elif has_user:
        yield Finding(path, "a URL holds no user name or password here")
    elif parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/") or "\0" in url):
        yield Finding(path, "file:// takes an absolute path", "such as file:///srv/edged, with three slashes")
    elif parts.query or parts.fragment:
        yield Finding(path, "the archive's URL has no '?' and no '#'")


# training


def _training(topology: Topology) -> Iterator[Finding]:
    yield from _job_names(topology)
    streams = {stream.name: stream for stream in topology.streams}
    for i, job in enumerate(topology.jobs):
        at = f"training[{i}]"
        if job.stream in streams:
            yield from _job(at, job, streams[job.stream])
        else:
            yield _no_stream(f"{at}.stream", job.stream, streams)


def _job_names(topology: Topology) -> Iterator[Finding]:
    named = [(f"training[{i}].name", job.name) for i, job in enumerate(topology.jobs)]
    if len(named) > 1:
        for path, name in named:
            if not name:
                yield Finding(path, "is missing", "each of several jobs has a name", needs=(path,))
    yield from _collisions((path, name) for path, name in named if name)


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
            f"an epoch of {training.live_epoch} samples is shorter than one batch of {training.global_batch}",
            needs=(f"{at}.global_batch",),
        )


def _backbone(at: str, training: Training, stream: Stream) -> Iterator[Finding]:
    backbone = training.backbone
    if backbone is None:
        return
    if backbone.file is not None and backbone.file.sample_shape != stream.shape:
        yield Finding(
            f"{at}.backbone.model",
            f"it takes samples of {_shape_text(backbone.file.sample_shape)}, the stream has"
            f" {_shape_text(stream.shape)}",
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
            f"with mean_squared_error the model gives its input back: {size} numbers for {_shape_text(stream.shape)}",
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
            f'{last.units} units for the {classes} labels of stream "{stream.name}"',
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
            f'{len(weights)} weights for the {len(stream.labels)} labels of stream "{stream.name}"',
            needs=needs,
        )
    elif weights and not any(weights):
        yield Finding(f"{at}.class_weights", "all are 0: nothing would be learned", needs=needs)


def _schedule(at: str, training: Training) -> Iterator[Finding]:
    if training.source != "live" and training.schedule.warmup > training.epochs:
        yield Finding(
            f"{at}.schedule",
            f"a warm-up of {training.schedule.warmup:g} epochs does not end within {training.epochs}",
            needs=(f"{at}.epochs", f"{at}.source"),
        )


def _sampling(at: str, training: Training) -> Iterator[Finding]:
    sampling = training.sampling
    if sampling.hit_share is None:
        return
    if sampling.mode != "stratified":
        why = f"{sampling.mode} does not use it"
        yield Finding(f"{at}.sampling.hit_share", why, "leave it out", (f"{at}.sampling.mode",))
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
            f"only [height, width, channels] and [length, channels] can be varied, not {_shape_text(stream.shape)}",
            needs=needs,
        )
    elif augment.shift >= max(stream.shape[:-1]):
        yield Finding(
            f"{at}.augment.shift", f"it moves samples of {_shape_text(stream.shape)} out of sight", needs=needs
        )


# budgets


def _budgets(topology: Topology) -> Iterator[Finding]:
    streams = {stream.name: stream for stream in topology.streams}
    trained = [(job, streams.get(job.stream)) for job in topology.jobs]
    memory = [None if stream is None else _memory(job, stream) for job, stream in trained]
    for i, edge in enumerate(topology.edges):
        if edge.prefetch < LEAST_PREFETCH:
            yield Finding(f"edges[{i}].prefetch", f"at least {mebibytes(LEAST_PREFETCH)}: two messages of an epoch")
        else:
            for k, (_, stream) in enumerate(trained):
                yield from _prefetch(f"edges[{i}]", edge, stream, f"training[{k}].stream")
        yield from _cache(f"edges[{i}]", edge, sum(job.source != "live" for job in topology.jobs))
        yield from _memory_limit(f"edges[{i}]", edge_budget(topology, edge, memory))


def _prefetch(at: str, edge: Edge, stream: Stream | None, named_at: str) -> Iterator[Finding]:
    if stream and edge.prefetch < 2 * sample_bytes(stream):
        yield Finding(
            f"{at}.prefetch",
            f'at least two samples of stream "{stream.name}", {mebibytes(2 * sample_bytes(stream))}',
            needs=(named_at, f"streams.{stream.name}.sample"),
        )


def _cache(at: str, edge: Edge, num_jobs: int) -> Iterator[Finding]:
    held, needed = edge.cache.memory + edge.cache.disk, edge.prefetch // 2 * max(num_jobs, 1)
    if 0 < held < needed:
        each = f" for each of {num_jobs} jobs" if num_jobs > 1 else ""
        yield Finding(
            f"{at}.cache",
            f"memory and disk together hold {mebibytes(held)}, less than one window of an epoch, half of"
            f" prefetch{each}: {mebibytes(needed)}",
            f"give it {-(-needed // MIB)}MiB, make prefetch smaller, or set both to 0",
            (f"{at}.prefetch", "training"),
        )


def _memory_limit(at: str, budget: Budget) -> Iterator[Finding]:
    if budget.total <= budget.limit:
        return
    parts = " + ".join(f"{name} {mebibytes(part)}" for name, part in budget.parts.items())
    yield Finding(
        f"{at}.memory_limit",
        f"the daemon needs about {mebibytes(budget.total)} ({parts}), the limit is {mebibytes(budget.limit)}",
        f"raise memory_limit to {-(-budget.total // MIB)}MiB, or make cache.memory or global_batch smaller",
        (f"{at}.cache", f"{at}.prefetch", "training", "streams"),
    )


def _memory(job: Training, stream: Stream) -> ModelMemory | None:
    try:
        return training_memory(job, stream)
    except ShapeError:
        return None  # told by _model


# warnings


def _plain_network(topology: Topology) -> Iterator[Finding]:
    if topology.kafka.security.protocol.endswith("PLAINTEXT") and not topology.kafka.is_loopback:
        yield Finding(
            "kafka.bootstrap",
            "samples and models go over the network unencrypted",
            "see kafka.security; SASL_SSL encrypts and tells the nodes apart",
        )


def _idle_edges(topology: Topology) -> Iterator[Finding]:
    live = dict.fromkeys(job.stream for job in topology.jobs if job.source != "archive")
    for i, edge in enumerate(topology.edges):
        sent = {device.stream for device in topology.devices_of(edge.name)}
        if not sent:
            yield Finding(f"edges[{i}].name", "no device sends to this edge")
            continue
        for stream in live:
            if stream not in sent:
                at = f"edges[{i}].name"
                yield Finding(at, f'none of its devices sends the stream "{stream}" that it trains on')


def _calibration(topology: Topology) -> Iterator[Finding]:
    for i, job in enumerate(topology.jobs):
        if job.deploy.format == "int8" and not job.test_samples:
            yield Finding(
                f"training[{i}].deploy.format",
                "without held-out samples to calibrate by, the companion gets float32 models",
                "set test_samples",
            )


def _shape_text(shape: Shape) -> str:
    return "×".join(str(n) for n in shape)
