"""Devices, edges and the archive: references, codecs, URLs."""

import math
import unicodedata
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from edged.domain.nn.spec import shape_text
from edged.domain.samples.sample import MAX_BYTES
from edged.domain.suggest import did_you_mean
from edged.domain.text import shown
from edged.domain.topology import Device, Stream, Topology
from edged.domain.validation.finding import Finding

ARCHIVE_SCHEMES = ("file", "hdfs", "webhdfs", "s3")

_BYTES_OF = {"uint8": 1, "float32": 4}


def sample_bytes(stream: Stream) -> int:
    """Bytes of one raw sample."""
    return math.prod(stream.shape) * _BYTES_OF[stream.dtype]


def problems(topology: Topology) -> Iterator[Finding]:
    """See `rules.problems`."""
    yield from _devices(topology)
    yield from _archive(topology)


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


def _archive(topology: Topology) -> Iterator[Finding]:
    if len(topology.archive) != 1:
        yield Finding(
            "archive",
            f"exactly one archive node, not {len(topology.archive)}: one node serves, and the file system behind it is"
            " what is distributed",
        )
    for i, archive in enumerate(topology.archive):
        yield from _url(f"archive[{i}].url", archive.url)


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


def _trimmed_live(topology: Topology, live: Iterable[str]) -> Iterator[Finding]:
    for i, archive in enumerate(topology.archive):
        for stream in live if archive.trim else ():
            yield Finding(
                f"archive[{i}].trim",
                f'the stream "{stream}" is trained on live: an edge that lags, or was away, misses what has been'
                " deleted meanwhile",
                "",
                ("training",),
            )


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


def warnings(topology: Topology) -> Iterator[Finding]:
    """See `rules.warnings`."""
    for each in topology.streams:
        yield from _alike_labels(each)
    live = dict.fromkeys(job.stream for job in topology.jobs if job.source != "archive")
    yield from _trimmed_live(topology, live)
    for i, edge in enumerate(topology.edges):
        sent = {device.stream for device in topology.devices_of(edge.name)}
        if not sent:
            yield Finding(f"edges[{i}].name", "no device sends to this edge")
            continue
        for stream in live:
            if stream not in sent:
                at = f"edges[{i}].name"
                yield Finding(at, f'none of its devices sends the stream "{stream}" that it trains on')
