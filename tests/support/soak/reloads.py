"""Reloads of the topology by all nodes of the site, under load: one that must take effect, and those to be refused.

No node may end or be started meanwhile: it would begin with the file as it is then.
"""

import asyncio
import itertools
import statistics
from collections.abc import Iterable
from dataclasses import replace

from edged.cli.demo.processes import LogLine
from tests.support.soak.devices import NumberedDevice
from tests.support.soak.ledger import Ledger
from tests.support.soak.plant import Node, Plant
from tests.support.soak.site_file import SiteFile

TAKEN = "taken"
RESTART, WRONG, TORN = "restart", "wrong", "torn"
REFUSED = (RESTART, WRONG, TORN)
"""It asks for what takes a restart, has mistakes, or ends in the middle."""

_RESOURCES_MS = (1000, 200)
_BETWEEN_MS = 450
_GAPS = 5
_BATCHES = 5
"""Of the samples of each new device."""

_ANSWER_S = 60.0
"""Within which a node has answered, and does what it has read: on a machine that does much else."""


async def taken(plant: Plant, ledger: Ledger, edge: str) -> None:
    """A new device of the edge, and another interval of `res.sample`: both take effect at once."""
    name = f"new-{len(plant.file.devices)}"
    [resources_ms] = {*_RESOURCES_MS} - {plant.file.resources_ms}
    file = replace(plant.file, devices={**plant.file.devices, name: edge}, resources_ms=resources_ms)
    await _all_up(plant)
    plant.write(file.text())
    plant.file = file
    for node, answer in await _answers(plant):
        if answer.get("event") != "config.reloaded" or set(answer["keys"]) != {f"iot[{name}]", "log.resources"}:
            plant.broke(f"{node.name} was to take a reload, and said {answer}")
    ledger.edge_of[name] = edge
    device = NumberedDevice(name, plant.loaded(), plant.bootstrap, ledger)
    await asyncio.gather(device.run(_BATCHES), *(_judge_interval(plant, node) for node in plant.nodes.values()))


async def refused(plant: Plant, how: str) -> None:
    """A file that is refused whole: with the old one back, nothing has changed."""
    await _all_up(plant)
    plant.write(_unacceptable(plant.file, how))
    for node, answer in await _answers(plant):
        told = answer.get("keys") == ["training[group].epochs"] if how == RESTART else answer.get("problems")
        if answer.get("event") != "config.refused" or not told:
            plant.broke(f"{node.name} was to refuse a reload ({how}), and said {answer}")
    plant.write(plant.file.text())
    for node, answer in await _answers(plant):
        if answer.get("event") != "config.reloaded" or answer["keys"]:
            plant.broke(f"{node.name} has something of a reload that it refused ({how}): {answer}")


def _unacceptable(file: SiteFile, how: str) -> str:
    """Besides what is wrong with it there is a device in it that would be taken."""
    changed = replace(file, devices={**file.devices, "refused": "pi-a"})
    if how == RESTART:
        return replace(changed, epochs=file.epochs + 1).text()
    if how == WRONG:
        return replace(changed, epochs=-1).text()
    text = changed.text()
    return text[: text.index("optimizer: {") + 12]


async def _all_up(plant: Plant) -> None:
    for node in plant.nodes.values():
        await node.up()


async def _answers(plant: Plant) -> Iterable[tuple[Node, LogLine]]:
    nodes = list(plant.nodes.values())
    try:
        async with asyncio.timeout(_ANSWER_S):
            return list(zip(nodes, await asyncio.gather(*(node.reload() for node in nodes)), strict=True))
    except TimeoutError:
        plant.broke(f"a node has not answered to SIGHUP within {_ANSWER_S:.0f} s")
        return ()


async def _judge_interval(plant: Plant, node: Node) -> None:
    """Its `res.sample` lines come as the file has it, but for a busy machine."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            moments_s = await node.next_samples(_GAPS + 1)
    except TimeoutError:
        plant.broke(f"{node.name} has logged no {_GAPS + 1} res.sample within {_ANSWER_S:.0f} s of a reload")
        return
    gap_ms = 1000 * statistics.median(b - a for a, b in itertools.pairwise(moments_s))
    if (gap_ms > _BETWEEN_MS) != (plant.file.resources_ms > _BETWEEN_MS):
        plant.broke(f"{node.name} logs res.sample every {gap_ms:.0f} ms after a reload to {plant.file.resources_ms} ms")
