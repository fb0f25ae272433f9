"""How long a step of a group takes, on paper: which records it needs, which way they go, and what that takes.

Times are seconds, sizes bytes, rates bits a second. A job alone takes the sum of what it does one after the other; jobs
together take no less than all that they ask of the busiest part: the asymptotic bounds of operational analysis
(Denning and Buzen 1978, https://doi.org/10.1145/356733.356735). A record is delayed on its way to the broker and on its
way from there; round trips besides, of Kafka and TCP, are in what is fitted. Jitter and stragglers are the simulation's
subject.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

Mode = Literal["all_reduce", "parameter_server"]

PARAMETERS = 34_826
"""Of README's model."""

_HEADER_BYTES = 600
"""Of a record: safetensors and Kafka."""


@dataclass(frozen=True, slots=True)
class Machines:
    """`cpu`: how many times as fast as an edge the server's node computes; `delay_s`: of an edge's link, one way."""

    edges: int
    edge_link: float
    broker_link: float = 1e9
    server_link: float = 1e9
    brokers: int = 1
    cpu: float = 5.0
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What an edge's CPU takes: for a sample, and for a gradient that it reads; and what each exchange takes besides.

    `gradient_s` is for a model of PARAMETERS and grows with it.
    """

    sample_s: float
    gradient_s: float
    exchange_s: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """How a job's edges train together. `batch`: samples of a step over all edges; `servers`: each has an equal part of
    the parameters; `gradient_bytes`: if it is known by a measurement."""

    mode: Mode
    batch: int
    compression: str = "none"
    sync_every: int = 1
    servers: int = 1
    parameters: int = PARAMETERS
    gradient_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A job's step as it is on average. All jobs' together: computing, and the bytes of an exchange; `edge_bytes` are
    those of both ways."""

    seconds: float
    compute_s: float
    edge_bytes: float
    broker_in_bytes: float
    broker_out_bytes: float
    sync_every: int

    @property
    def comm_fraction(self) -> float:
        return 1 - self.compute_s / self.seconds

    @property
    def broker_in_rate(self) -> float:
        """Bytes a second."""
        return self.broker_in_bytes / self.sync_every / self.seconds

    @property
    def broker_out_rate(self) -> float:
        """Bytes a second."""
        return self.broker_out_bytes / self.sync_every / self.seconds

    @property
    def edge_rate(self) -> float:
        """Bytes a second, both ways."""
        return self.edge_bytes / self.sync_every / self.seconds


def payload_bytes(compression: str, parameters: int = PARAMETERS, top_k: float = 0.2) -> float:
    """A gradient's record; of top_k each entry is a value of one byte and a distance of another."""
    entry = {"none": 4.0, "fp16": 2.0, "int8": 1 + 4 / 1024, "top_k": (2 + 4 / 1024) * top_k}[compression]
    return _HEADER_BYTES + parameters * entry


def update_bytes(exchange: Exchange) -> float:
    """The server's record: float32 if gradients are whole, too, and otherwise half of that."""
    return payload_bytes("none" if exchange.compression == "none" else "fp16", exchange.parameters)


def gradient_bytes(exchange: Exchange) -> float:
    """What a member sends."""
    return exchange.gradient_bytes or payload_bytes(exchange.compression, exchange.parameters)


def alone_s(costs: Costs, batch: int) -> float:
    """A step of one edge that exchanges nothing."""
    return batch * costs.sample_s


def efficiency(step: Step, costs: Costs, machines: Machines, batch: int) -> float:
    """Of a group, to as many edges alone."""
    return alone_s(costs, batch) / machines.edges / step.seconds


def step(machines: Machines, costs: Costs, exchange: Exchange, jobs: int = 1) -> Step:
    """The step of each of several equal jobs, all of them on all edges."""
    compute = alone_s(costs, exchange.batch) / machines.edges * exchange.sync_every
    demands = _all_reduce if exchange.mode == "all_reduce" else _parameter_server
    path, busiest, (edge, broker_in, broker_out) = demands(machines, costs, exchange, compute)
    seconds = max(compute + path, jobs * busiest)
    return Step(
        seconds / exchange.sync_every, jobs * compute / exchange.sync_every,
        jobs * edge, jobs * broker_in, jobs * broker_out, exchange.sync_every,
    )  # fmt: skip


_Demands = tuple[float, float, tuple[float, float, float]]
"""Seconds of an exchange; seconds of the part that has the most to do in a round; bytes of edge, broker in and out."""


def _all_reduce(machines: Machines, costs: Costs, exchange: Exchange, compute: float) -> _Demands:
    """Each sends its gradient and reads those of all, its own among them."""
    n, size, read_s = machines.edges, gradient_bytes(exchange), _read_s(costs, exchange)
    broker = machines.broker_link * machines.brokers
    up, down = _s(size, machines.edge_link), _s(n * size, machines.edge_link)
    into, out = _s(n * size, broker), _s(n * n * size, broker)
    path = up + max(into, out, down, n * read_s) + 2 * machines.delay_s + costs.exchange_s
    busiest = max(compute + n * read_s, down, out, into)
    return path, busiest, ((n + 1) * size, n * size, n * n * size)


def _parameter_server(machines: Machines, costs: Costs, exchange: Exchange, compute: float) -> _Demands:
    """Each sends its gradient to the servers, and reads what they make of all."""
    n, size, update = machines.edges, gradient_bytes(exchange), update_bytes(exchange)
    servers, read_s = exchange.servers, _read_s(costs, exchange)
    broker = machines.broker_link * machines.brokers
    up, down = _s(size, machines.edge_link), _s(update, machines.edge_link)
    gathered, fold = _s(n * size / servers, machines.server_link), n * read_s / machines.cpu / servers
    sent = _s(update / servers, machines.server_link)
    in_s, out_s = _s(n * size + update, broker), _s(n * size + n * update, broker)
    gather = up + max(_s(n * size, broker), gathered, fold)
    spread = sent + max(down, _s(n * update, broker)) + read_s
    busiest = max(compute + read_s, up, down, gathered, fold, in_s, out_s)
    path = gather + spread + 2 * machines.delay_s + costs.exchange_s
    return path, busiest, (size + update, n * size + update, n * (size + update))


def _read_s(costs: Costs, exchange: Exchange) -> float:
    return costs.gradient_s * exchange.parameters / PARAMETERS


def _s(num_bytes: float, bits_per_s: float) -> float:
    return 8 * num_bytes / bits_per_s if bits_per_s else 0.0


def max_edges(efficient: float, machines: Machines, costs: Costs, exchange: Exchange, per_edge: int) -> int:
    """The largest group, of powers of two, that is so efficient with `per_edge` samples for each; 0 for none."""
    best = 0
    for power in range(11):
        n = 1 << power
        batch = n * per_edge
        sized = replace(machines, edges=n)
        found = step(sized, costs, replace(exchange, batch=batch))
        if efficiency(found, costs, sized, batch) >= efficient:
            best = n
    return best


def min_sync(efficient: float, machines: Machines, costs: Costs, exchange: Exchange) -> int | None:
    """The shortest rounds that make the group so efficient; None if 10,000 steps are not enough."""
    single = step(machines, costs, exchange)
    comm = single.seconds - single.compute_s
    limit = single.compute_s * (1 / efficient - 1)  # for each step
    found = max(math.ceil(comm / limit - 1e-9), 1) if limit > 0 else 10_001
    return found if found <= 10_000 else None
