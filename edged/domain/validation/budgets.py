"""Budgets of an edge: prefetch, cache, and the memory that everything needs."""

from collections.abc import Iterator

from edged.domain.counted import counted
from edged.domain.nn.spec import ShapeError
from edged.domain.topology import MIB, Edge, Stream, Topology, Training
from edged.domain.validation.finding import Finding
from edged.domain.validation.memory import Budget, ModelMemory, edge_budget, mebibytes, training_memory
from edged.domain.validation.nodes import sample_bytes

MIN_PREFETCH = 4 * MIB
"""Two messages of an epoch, so that one can be trained on while the next arrives."""


def problems(topology: Topology) -> Iterator[Finding]:
    """See `rules.problems`."""
    streams = {stream.name: stream for stream in topology.streams}
    trained = [(job, streams.get(job.stream)) for job in topology.jobs]
    memory = [None if stream is None else _memory(job, stream) for job, stream in trained]
    for i, edge in enumerate(topology.edges):
        if edge.prefetch < MIN_PREFETCH:
            yield Finding(f"edges[{i}].prefetch", f"at least {mebibytes(MIN_PREFETCH)}: two messages of an epoch")
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
        each = f" for each of {counted(num_jobs, 'job')}" if num_jobs > 1 else ""
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
        f"raise memory_limit to {-(-budget.total // MIB)}MiB, or make {_largest(budget)} smaller",
        (f"{at}.cache", f"{at}.prefetch", "training", "streams", "mqtt", "iot[].edge", "iot[].transport"),
    )


def _largest(budget: Budget) -> str:
    """What there is to save on."""
    if budget.mqtt > budget.model + budget.exchange + budget.cache:
        return "mqtt.window or mqtt.packet_bytes"
    return "cache.memory or global_batch"


def _memory(job: Training, stream: Stream) -> ModelMemory | None:
    try:
        return training_memory(job, stream)
    except ShapeError:
        return None  # reported by `training`
