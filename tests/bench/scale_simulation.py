"""How long a step of a group takes, by simulation: every record's way through CPUs and links that serve one at a time.

The same groups as `scale_paper`'s, with what it leaves out: records that wait for each other, and edges that are not
always equally fast. Deadlines are not simulated: everybody waits for the slowest.
"""

import functools
import heapq
import itertools
import math
import random
from collections.abc import Callable

from tests.bench.scale_paper import PARAMETERS, Costs, Exchange, Machines, gradient_bytes, update_bytes

_Then = Callable[[], None]

PART_BYTES = 512 * 1024
"""A gradient's record is no larger."""

_MAX_RECORDS, _MIN_ROUNDS, _MAX_ROUNDS = 25_000, 3, 30
"""Records of a run, read by all: what Python does in some tenths of a second; if so few are enough for some rounds."""


class Clock:
    """What happens next, in the order of time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, _Then]] = []
        self._numbers = itertools.count()

    def after(self, delay: float, then: _Then) -> None:
        """Call `then` so much later; of the same moment, the first one asked for comes first."""
        self.at(self.now + delay, then)

    def at(self, time: float, then: _Then) -> None:
        """Call `then` at that time, which is not over."""
        heapq.heappush(self._events, (time, next(self._numbers), then))

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()


class Station:
    """A CPU or one direction of a link: serves one at a time, in the order of coming."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at = 0.0

    def end(self, seconds: float, begin: float) -> float:
        """When one that comes at `begin`, now or later, has been served. Nobody may come before it any more: where one
        station alone sends to another, that is so as soon as it has begun to, and saves an event for each."""
        self._free_at = max(self._free_at, begin) + seconds
        return self._free_at

    def serve(self, seconds: float, then: _Then) -> None:
        """One that comes now."""
        self._clock.at(self.end(seconds, self._clock.now), then)


class Link:
    """A link's two directions. `bits_per_s`: 0 for one that takes no time but the delay, which does not occupy it."""

    def __init__(self, clock: Clock, bits_per_s: float, delay_s: float = 0.0) -> None:
        self._clock = clock
        self._s_per_byte = 8 / bits_per_s if bits_per_s else 0.0
        self._delay_s = delay_s
        self._up, self._down = Station(clock), Station(clock)

    def up(self, num_bytes: float, then: _Then) -> None:
        """What is sent now has arrived."""
        self._clock.at(self._up.end(num_bytes * self._s_per_byte, self._clock.now) + self._delay_s, then)

    def down(self, num_bytes: float, begin: float) -> float:
        """When it has arrived, as `Station.end`."""
        return self._down.end(num_bytes * self._s_per_byte, begin) + self._delay_s


class Site:
    """What all jobs have in common: the edges' CPUs and links, the servers', and the broker's link."""

    def __init__(self, clock: Clock, machines: Machines, servers: int) -> None:
        self.clock = clock
        self.cpus = [Station(clock) for _ in range(machines.edges)]
        self.links = [Link(clock, machines.edge_link, machines.delay_s) for _ in range(machines.edges)]
        self.broker = Link(clock, machines.broker_link * machines.brokers)
        self.server_cpus = [Station(clock) for _ in range(servers)]
        self.server_links = [Link(clock, machines.server_link) for _ in range(servers)]


class Job:
    """One group. `ends`: when its first member has finished each exchange.

    Each member goes through compute, send, wait for all that the exchange needs, and from there into the next round,
    whatever the others do.
    """

    def __init__(
        self, site: Site, machines: Machines, costs: Costs, exchange: Exchange, rounds: int, chance: random.Random,
        jitter: float,
    ) -> None:  # fmt: skip
        self._site = site
        self._machines = machines
        self._costs = costs
        self._exchange = exchange
        self._rounds = rounds
        self._chance = chance
        self._jitter = jitter
        self._parts = max(math.ceil(gradient_bytes(exchange) / PART_BYTES), 1)
        self._read_s = costs.gradient_s * exchange.parameters / PARAMETERS
        self._wanted = machines.edges if exchange.mode == "all_reduce" else exchange.servers
        self._round = [0] * machines.edges
        self._missing = [[self._wanted * self._parts] * rounds for _ in range(machines.edges)]
        self._ungathered = [[machines.edges * self._parts] * rounds for _ in range(exchange.servers)]
        self.ends: list[float] = []
        for edge in range(machines.edges):
            self._compute(edge)

    def _compute(self, edge: int) -> None:
        if self._round[edge] == self._rounds:
            return
        samples = self._exchange.batch / self._machines.edges * self._exchange.sync_every
        # Of mean 1, whatever the jitter.
        factor = self._chance.lognormvariate(-(self._jitter**2) / 2, self._jitter)
        self._site.cpus[edge].serve(samples * self._costs.sample_s * factor, lambda: self._send(edge))

    def _send(self, edge: int) -> None:
        size = gradient_bytes(self._exchange) / self._parts
        number = self._round[edge]
        for _ in range(self._parts):
            self._site.links[edge].up(size, lambda: self._site.broker.up(size, lambda: self._publish(number, size)))

    def _publish(self, number: int, size: float) -> None:
        if self._exchange.mode == "all_reduce":
            self._spread(number, size, self._read_s / self._parts)
            return
        for server in range(self._exchange.servers):
            self._gather(server, number, size / self._exchange.servers)

    def _spread(self, number: int, size: float, read_s: float) -> None:
        """From the broker to all members."""
        clock, links, broker = self._site.clock, self._site.links, self._site.broker
        # They take turns at being the first that the broker serves.
        first = self._chance.randrange(self._machines.edges)
        for edge in (*range(first, self._machines.edges), *range(first)):
            arrived = links[edge].down(size, broker.down(size, clock.now))
            clock.at(arrived, functools.partial(self._take, edge, number, read_s))

    def _take(self, edge: int, number: int, read_s: float) -> None:
        read = self._site.cpus[edge].end(read_s, self._site.clock.now)
        self._missing[edge][number] -= 1
        if self._missing[edge][number] == 0:
            self._site.clock.at(read + self._costs.exchange_s, lambda: self._finish(edge))

    def _finish(self, edge: int) -> None:
        self._round[edge] += 1
        if self._round[edge] > len(self.ends):
            self.ends.append(self._site.clock.now)
        self._compute(edge)

    def _gather(self, server: int, number: int, size: float) -> None:
        link, broker = self._site.server_links[server], self._site.broker
        arrived = link.down(size, broker.down(size, self._site.clock.now))
        self._site.clock.at(arrived, lambda: self._fold(server, number))

    def _fold(self, server: int, number: int) -> None:
        fold_s = self._read_s / self._parts / self._exchange.servers / self._machines.cpu
        folded = self._site.server_cpus[server].end(fold_s, self._site.clock.now)
        self._ungathered[server][number] -= 1
        if self._ungathered[server][number] == 0:
            self._site.clock.at(folded, lambda: self._update(server, number))

    def _update(self, server: int, number: int) -> None:
        servers, parts = self._exchange.servers, self._parts
        size, read_s = update_bytes(self._exchange) / servers / parts, self._read_s / servers / parts
        for _ in range(parts):
            self._site.server_links[server].up(
                size, lambda: self._site.broker.up(size, lambda: self._spread(number, size, read_s))
            )


def records_read(edges: int, exchange: Exchange) -> int:
    """In an exchange of one job, by all."""
    return edges * edges if exchange.mode == "all_reduce" else 2 * edges * exchange.servers


def step_s(
    machines: Machines, costs: Costs, exchange: Exchange, *, jobs: int = 1, jitter: float = 0.05, seed: int = 0
) -> float:
    """Seconds of a step, a mean over some exchanges behind the first. `jitter`: of a round's computing, its sigma."""
    records = jobs * records_read(machines.edges, exchange)
    rounds = min(max(_MAX_RECORDS // records, _MIN_ROUNDS), _MAX_ROUNDS)
    clock, chance = Clock(), random.Random(seed)  # noqa: S311 - jitter is no secret
    site = Site(clock, machines, exchange.servers)
    made = [Job(site, machines, costs, exchange, rounds, chance, jitter) for _ in range(jobs)]
    clock.run()
    lengths = [(job.ends[-1] - job.ends[0]) / (rounds - 1) for job in made]
    return sum(lengths) / len(lengths) / exchange.sync_every
