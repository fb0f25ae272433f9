"""The kinds of faults of a soak: what is drawn by the seed, and how each is done to the site and undone.

A fault is drawn before it is known when it will be done, so that a seed gives the same ones however fast the machine
is. Covers no judgement: see `ledger`, and `tests/faults/soak.py` for the rounds.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests.support.clock import CLOCKS
from tests.support.disk import BROKEN, FULL, READ_ONLY, Disk
from tests.support.foreign_producers import transaction
from tests.support.recreated import recreate
from tests.support.soak import devices as clients
from tests.support.soak.devices import NumberedDevice
from tests.support.soak.ledger import Ledger
from tests.support.soak.plant import NODES, Plant
from tests.support.soak.reloads import REFUSED, TAKEN, refused, taken
from tests.support.soak.site_file import DEVICES, STREAM

DISKS: Mapping[str, Callable[[Disk], None]] = {
    "full": lambda disk: disk.fail(FULL),
    "broken": lambda disk: disk.fail(BROKEN),
    "read-only": lambda disk: disk.fail(READ_ONLY),
    "slow": lambda disk: disk.slow(0.5),
    "hung": lambda disk: disk.slow(60),
}
"""How the disk of a node is; for the archive node that is the archive's."""

MAX_PARTITIONS = 3
_AWAY_S = (0.3, 6.0)
_ADMIN_TIMEOUT_S = 60.0
_FOREIGN_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, begun `at_s` seconds into its round and lasting for `for_s`. `more`: what its kind wants."""

    kind: str
    target: str
    at_s: float = 0.0
    for_s: float = 0.0
    more: Any = None

    def told(self) -> Mapping[str, Any]:
        """For the history."""
        return {key: value for key, value in asdict(self).items() if value not in (None, 0.0)}


@dataclass
class World:
    """What faults are done to."""

    plant: Plant
    devices: Mapping[str, NumberedDevice]
    ledger: Ledger
    rng: random.Random
    """For bytes, not for what happens."""


Act = Callable[[World, Fault], Awaitable[None]]


async def _kill(world: World, fault: Fault) -> None:
    await world.plant.nodes[fault.target].end(signal.SIGKILL)


async def _stop(world: World, fault: Fault) -> None:
    await world.plant.nodes[fault.target].end(signal.SIGTERM)


async def _freeze(world: World, fault: Fault) -> None:
    node = world.plant.nodes[fault.target]
    await node.up()
    node.freeze()
    await asyncio.sleep(fault.for_s)
    node.thaw()


async def _clock(world: World, fault: Fault) -> None:
    clock = world.plant.nodes[fault.target].clock
    clock.set(fault.more)
    await asyncio.sleep(fault.for_s)
    clock.set(0)


async def _disk(world: World, fault: Fault) -> None:
    node = world.plant.nodes[fault.target]
    with node.excused():  # one that starts meanwhile may end, and is started again
        DISKS[fault.more](node.disk)
        await asyncio.sleep(fault.for_s)
        node.disk.heal()
        await node.up()


async def _broker_away(world: World, fault: Fault) -> None:
    await asyncio.to_thread(world.plant.broker.stop, signal.Signals[fault.more])
    await asyncio.sleep(fault.for_s)
    await asyncio.to_thread(world.plant.broker.start)


async def _broker_frozen(world: World, fault: Fault) -> None:
    await asyncio.to_thread(world.plant.broker.pause)
    await asyncio.sleep(fault.for_s)
    world.plant.broker.resume()


async def _network(world: World, fault: Fault) -> None:
    proxy = world.plant.proxy
    setattr(proxy, fault.more, True)
    if fault.more == "refuse":
        proxy.cut()
    await asyncio.sleep(fault.for_s)
    setattr(proxy, fault.more, False)
    proxy.cut()  # bytes are missing in what was open


async def _cuts(world: World, fault: Fault) -> None:
    for _ in range(fault.more):
        world.plant.proxy.cut()
        await asyncio.sleep(fault.for_s / fault.more)


async def _poison(world: World, fault: Fault) -> None:
    device = world.devices[fault.target]
    records = [clients.poison(world.rng) for _ in range(fault.more)]
    async with device.held():  # not while its topic is another
        await asyncio.to_thread(clients.write, world.plant.bootstrap, device.topic, records)
    world.ledger.poison[device.edge] += len(records)


async def _foreign(world: World, fault: Fault) -> None:
    device, samples = world.devices[fault.target], world.ledger.draw(_FOREIGN_SAMPLES)
    is_committed = fault.more == "commit"
    if is_committed:
        world.ledger.maybe(samples)
    try:
        async with asyncio.timeout(fault.for_s + 30), transaction(world.plant.bootstrap, timeout_s=10) as foreign:
            await foreign.write(device.topic, [(each.label.encode(), each.payload) for each in samples])
            await asyncio.sleep(fault.for_s)
            await (foreign.commit() if is_committed else foreign.abort())
    except Exception:  # noqa: BLE001 - whatever a client says while its broker suffers: the samples stay in doubt
        return
    if is_committed:
        world.ledger.acknowledged(device.name, samples)


async def _reload(world: World, fault: Fault) -> None:
    if fault.more == TAKEN:
        await taken(world.plant, world.ledger, fault.target)
    else:
        await refused(world.plant, fault.more)


async def _recreate(world: World, fault: Fault) -> None:
    await asyncio.to_thread(recreate, world.plant.bootstrap, _topic(world, fault.target))


async def _partitions(world: World, fault: Fault) -> None:
    def create() -> None:
        admin = AdminClient({"bootstrap.servers": world.plant.bootstrap, "log_level": 0})
        topic = _topic(world, fault.target)
        now = len(admin.list_topics(topic, timeout=_ADMIN_TIMEOUT_S).topics[topic].partitions)
        if now < MAX_PARTITIONS:
            [created] = admin.create_partitions([NewPartitions(topic, now + 1)]).values()
            created.result()

    await asyncio.to_thread(create)


def _topic(world: World, target: str) -> str:
    """Of a device, or the packs' of an edge."""
    topology = world.plant.topology
    return topology.device_topic(target) if target in DEVICES else topology.archive_topic(STREAM, target)


ACTS: Mapping[str, Act] = {
    "kill": _kill,
    "stop": _stop,
    "freeze": _freeze,
    "clock": _clock,
    "disk": _disk,
    "broker_away": _broker_away,
    "broker_frozen": _broker_frozen,
    "network": _network,
    "cuts": _cuts,
    "poison": _poison,
    "foreign": _foreign,
    "reload": _reload,
}
"""At any moment, together with others."""

_NODES, _DEVICES = tuple(NODES), tuple(DEVICES)
_DRAWN: Mapping[str, tuple[Sequence[str], Sequence[Any], bool]] = {
    "kill": (_NODES, (None,), False),
    "stop": (_NODES, (None,), False),
    "freeze": (_NODES, (None,), True),
    "clock": (_NODES, tuple(CLOCKS), True),
    "disk": (_NODES, tuple(DISKS), True),
    "broker_away": (("broker",), ("SIGKILL", "SIGTERM"), True),
    "broker_frozen": (("broker",), (None,), True),
    "network": (("proxy",), ("refuse", "blackhole", "drop_answers"), True),
    "cuts": (("proxy",), (1, 2, 3, 4, 5), True),
    "poison": (_DEVICES, (1, 2, 3, 4, 5, 6), False),
    "foreign": (_DEVICES, ("commit", "abort"), True),
    "reload": (tuple(dict.fromkeys(DEVICES.values())), (TAKEN, TAKEN, *REFUSED), False),
}
"""Of each kind the targets, what `more` may be, and whether it lasts."""

CALM_ACTS: Mapping[str, Act] = {"recreate": _recreate, "partitions": _partitions}
"""While nobody publishes and all is archived: what a log takes with it is lost for all."""


def draw(rng: random.Random) -> tuple[list[Fault], list[Fault]]:
    """The faults of a round: those of its calm beginning, and those after it, each of which has its target alone."""
    calm = [_drawn_calm(rng)] if rng.random() < 0.3 else []
    wanted, faults, claims = rng.choice((1, 2, 2, 3, 3, 4)), list[Fault](), set[str]()
    while len(faults) < wanted:
        fault = _drawn(rng)
        if claims.isdisjoint(claimed := _claims(fault)):
            claims |= claimed
            faults.append(fault)
    return calm, faults


def _claims(fault: Fault) -> set[str]:
    """What no other fault of its round may touch."""
    match fault.kind:
        case "broker_away" | "broker_frozen" | "network" | "cuts":
            return {"kafka"}
        case "reload":
            return {f"process {node}" for node in NODES}
        case "clock" | "disk" | "poison" | "foreign":
            return {f"{fault.kind} {fault.target}"}
        case _:
            return {f"process {fault.target}"}


def _drawn_calm(rng: random.Random) -> Fault:
    if rng.random() < 0.6:
        return Fault("recreate", rng.choice([*DEVICES, "pi-a", "pi-b"]))
    return Fault("partitions", "dev-2")


def _drawn(rng: random.Random) -> Fault:
    kind = rng.choice([*ACTS, "kill", "stop"])
    at_s, for_s = round(rng.uniform(0, 3), 2), round(rng.uniform(*_AWAY_S), 2)
    targets, choices, lasts = _DRAWN[kind]
    return Fault(kind, rng.choice(targets), at_s, for_s if lasts else 0.0, rng.choice(choices))


async def act(world: World, faults: Sequence[Fault]) -> None:
    """Do these faults, all undone again when it returns."""

    async def one(fault: Fault) -> None:
        await asyncio.sleep(fault.at_s)
        await {**ACTS, **CALM_ACTS}[fault.kind](world, fault)

    await asyncio.gather(*(one(fault) for fault in faults))
