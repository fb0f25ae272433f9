"""Duplicate names, and names that join to the same topic."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from edged.domain.topology import Topology
from edged.domain.topology.topics import prediction_topics
from edged.domain.validation.finding import Finding

NODE_NAMES = ("iot[].name", "edges[].name", "archive[].name")


def problems(topology: Topology) -> Iterator[Finding]:
    """Duplicate and ambiguous names of nodes and streams."""
    yield from _node_and_stream_names(topology)
    yield from _topics(topology)


def _node_and_stream_names(topology: Topology) -> Iterator[Finding]:
    nodes = [
        *((f"iot[{i}].name", device.name) for i, device in enumerate(topology.iot)),
        *((f"edges[{i}].name", edge.name) for i, edge in enumerate(topology.edges)),
        *((f"archive[{i}].name", archive.name) for i, archive in enumerate(topology.archive)),
    ]
    streams = [(f"streams.{stream.name}", stream.name) for stream in topology.streams]
    yield from collisions(nodes)
    yield from collisions(streams)


def collisions(named: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Names that are equal but for '.' and '_', as in Kafka's metrics, or for case, as in some file systems."""
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
    """Distinct names that join to one topic: stream a of edge b.c and stream a.b of edge c."""
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
                needs=("streams", *NODE_NAMES),
            )
    yield from _prediction_topics(topology)


def _prediction_topics(topology: Topology) -> Iterator[Finding]:
    """Names that join to one topic of predictions: job b.c of edge a and job c of edge a.b."""
    seen: set[str] = set()
    for i, edge in enumerate(topology.edges):
        own = {_folded(topic) for topic in prediction_topics(topology, edge.name)}
        if not own.isdisjoint(seen):
            yield Finding(
                f"edges[{i}].name",
                "predictions of one of its jobs would go to the topic of another edge's",
                "leave the '.' out of one of the names",
                needs=(*NODE_NAMES, "training"),
            )
        seen |= own
