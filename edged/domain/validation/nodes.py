"""Devices and edges: references, codecs, labels."""

import math
import unicodedata
from collections.abc import Iterable, Iterator

from edged.domain.nn.spec import shape_text
from edged.domain.samples.sample import MAX_BYTES
from edged.domain.suggest import did_you_mean
from edged.domain.text import shown
from edged.domain.topology import Device, Stream, Topology
from edged.domain.validation.finding import Finding

_BYTES_OF = {"uint8": 1, "float32": 4}


def sample_bytes(stream: Stream) -> int:
    """Bytes of one raw sample."""
    return math.prod(stream.shape) * _BYTES_OF[stream.dtype]


def problems(topology: Topology) -> Iterator[Finding]:
    """See `rules.problems`."""
    yield from _devices(topology)


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
            yield no_stream(f"{at}.stream", device.stream, streams)
        else:
            yield from _codec(f"{at}.codec", device, stream)


def no_stream(path: str, name: str, known: Iterable[str]) -> Finding:
    """The finding that there is no stream `name`, as `path` has it."""
    return Finding(path, f'no stream is called "{name}"', did_you_mean(name, known), ("streams",))


def _codec(path: str, device: Device, stream: Stream) -> Iterator[Finding]:
    needs = (path.removesuffix(".codec") + ".stream", f"streams.{stream.name}.sample")
    shape = shape_text(stream.shape)
    if device.codec == "raw":
        if sample_bytes(stream) > MAX_BYTES:
            yield Finding(
                path,
                f"a raw sample of {shape} {stream.dtype} has {sample_bytes(stream)} bytes; at most {MAX_BYTES} fit"
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


def _alike_labels(stream: Stream) -> Iterator[Finding]:
    """Labels that differ in upper and lower case alone, or in the kind or number of their blanks, or in width."""
    seen: dict[str, tuple[int, str]] = {}
    for i, label in enumerate(stream.labels):
        folded = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        first, other = seen.setdefault(folded, (i, label))
        if first != i:
            differ = "differ in upper and lower case alone" if label.lower() == other.lower() else "look alike"
            yield Finding(
                f"streams.{stream.name}.labels[{i}]",
                f'"{shown(label)}" and "{shown(other)}" {differ}',
                "fine if they are two classes",
            )


def warnings(topology: Topology) -> Iterator[Finding]:
    """See `rules.warnings`."""
    for each in topology.streams:
        yield from _alike_labels(each)
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
