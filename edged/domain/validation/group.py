"""Jobs that the edges train together."""

from collections.abc import Iterator

from edged.domain.counted import counted
from edged.domain.suggest import did_you_mean
from edged.domain.topology import MAX_MEMBERS, Exchange, Topology, Training
from edged.domain.training.schedule import batch_factor
from edged.domain.validation.finding import Finding


def problems(topology: Topology) -> Iterator[Finding]:
    """See `rules.problems`."""
    for i, job in enumerate(topology.jobs):
        at = f"training[{i}]"
        yield from _unused_settings(at, job.exchange)
        if job.exchange.mode == "none":
            continue
        yield from _source(at, job)
        yield from _sampling(at, job)
        yield from _members(at, topology)
        yield from _server(at, topology, job.exchange)


def warnings(topology: Topology) -> Iterator[Finding]:
    """See `rules.warnings`."""
    for i, job in enumerate(topology.jobs):
        at = f"training[{i}]"
        yield from _cold_start(at, job)
        if job.exchange.mode != "none" and job.global_batch < len(topology.edges):
            yield Finding(
                f"{at}.global_batch",
                f"{counted(len(topology.edges), 'edge')} share a batch of {job.global_batch}: in each step some have no"
                " sample",
                "make it larger",
            )


def _unused_settings(at: str, exchange: Exchange) -> Iterator[Finding]:
    """Settings without effect because of others."""
    default, mode = Exchange(), f"{at}.exchange.mode"
    reason = f"mode: {exchange.mode} does not use it"
    if exchange.mode == "none":
        for key in ("compression", "top_k", "sync_every", "outer", "server"):
            if getattr(exchange, key) != getattr(default, key):
                hint = "leave it out, or set mode: all_reduce for one model of all edges"
                yield Finding(f"{at}.exchange.{key}", reason, hint, (mode,))
        return
    if exchange.server is not None and exchange.mode != "parameter_server":
        yield Finding(f"{at}.exchange.server", reason, "leave it out, or set mode: parameter_server", (mode,))
    if exchange.top_k != default.top_k and exchange.compression != "top_k":
        yield Finding(
            f"{at}.exchange.top_k",
            f"compression: {exchange.compression} does not use it",
            "leave it out, or set compression: top_k",
            (f"{at}.exchange.compression",),
        )
    if exchange.outer != default.outer and exchange.sync_every == 1:
        yield Finding(
            f"{at}.exchange.outer",
            "with sync_every: 1 each step is the group's, and the optimizer makes it",
            "leave it out, or set sync_every above 1",
            (f"{at}.exchange.sync_every",),
        )


def _source(at: str, job: Training) -> Iterator[Finding]:
    if job.source != "archive":
        yield Finding(
            f"{at}.source",
            f"a group shares out epochs that the archive streams; {job.source} trains on what only one edge has",
            "set source: archive, or exchange: {mode: none}",
            (f"{at}.exchange.mode",),
        )


def _sampling(at: str, job: Training) -> Iterator[Finding]:
    if job.sampling.mode != "uniform":
        yield Finding(
            f"{at}.sampling.mode",
            f"{job.sampling.mode} draws by what one edge's cache holds or has learnt, while a group draws one order for"
            " all its members",
            "set mode: uniform, or leave it out",
            (f"{at}.exchange.mode",),
        )


def _members(at: str, topology: Topology) -> Iterator[Finding]:
    if len(topology.edges) > MAX_MEMBERS:
        yield Finding(
            f"{at}.exchange.mode",
            f"{counted(len(topology.edges), 'edge')}; at most {MAX_MEMBERS} train one model together",
            "set mode: none, or describe them as several sites",
            ("edges",),
        )


def _server(at: str, topology: Topology, exchange: Exchange) -> Iterator[Finding]:
    nodes = [*(archive.name for archive in topology.archive), *(edge.name for edge in topology.edges)]
    if exchange.mode == "parameter_server" and exchange.server is not None and exchange.server not in nodes:
        yield Finding(
            f"{at}.exchange.server",
            f'no edge and no archive is called "{exchange.server}"',
            did_you_mean(exchange.server, nodes) or f"known: {', '.join(nodes)}",
            (f"{at}.exchange.mode", "edges[].name", "archive[].name"),
        )


def _cold_start(at: str, job: Training) -> Iterator[Finding]:
    factor = batch_factor(job.optimizer, job.global_batch, job.reference_batch)
    if factor > 1 and not job.schedule.warmup:
        yield Finding(
            f"{at}.reference_batch",
            f"the learning rate is {factor:g} times as large from the first step on",
            "a warm-up, such as schedule: {constant: {warmup: 1}}, keeps training from diverging",
        )
