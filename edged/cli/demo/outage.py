"""An outage of one edge in the middle of an epoch: what `--kill` shows.

Covers when it is killed, by its group's log, and when it is restarted. See also: `group` for the group's results.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass

from edged.cli.demo.site import Site
from edged.domain.group import records
from edged.domain.group.records import Part
from edged.ports import Log, LogReader, TopicPartition

STEPS_AWAY = 5
"""Steps for which the others have sent gradients when the edge is restarted."""


@dataclass(frozen=True, slots=True)
class Outage:
    """`edge` was killed in `epoch` while it sent its gradient of `step`, and was back after `away_s`.

    `caught_up`: steps since its last checkpoint, which it then applied from the log.
    """

    edge: str
    epoch: int
    step: int
    away_s: float
    caught_up: int


async def cause_outage(site: Site, log: Log, edge: str) -> Outage:
    """Kill the edge within the middle epoch; restart it when the others have continued without it."""
    [job] = site.topology.jobs
    partition = TopicPartition(site.topology.train_topic(job))
    epoch, running = job.epochs // 2, site.child("run", edge)
    begin = 0
    if epoch:
        await running.wait_for("exchange.begun", epoch=epoch - 1)
        begin = (await log.watermarks([partition]))[partition].high
    begun = await running.wait_for("exchange.begun", epoch=epoch)
    step = begun["step"] + begun["steps"] // 3
    async with log.reader({partition: begin}) as reader:
        await _gradient(reader, step, {edge})
        began = time.monotonic()
        await site.kill(edge)
        others = set(site.edges) - {edge}
        await _gradient(reader, min(step + STEPS_AWAY, begun["step"] + begun["steps"] - 1), others)
    back = await site.restart(edge)
    await back.until(lambda _: bool(back.seen("exchange.joined") or back.seen("train.finished")), "it joined again")
    caught_up = back.seen("exchange.caught_up")
    return Outage(edge, epoch, step, time.monotonic() - began, caught_up[0]["steps"] if caught_up else 0)


async def _gradient(reader: LogReader, step: int, edges: Collection[str]) -> None:
    """Read until a gradient of `step`, or a later one, comes from one of `edges`."""
    while True:
        for record in await reader.poll(max_records=1, timeout_s=1.0):
            part = records.decode(record.value)
            if isinstance(part, Part) and part.edge in edges and part.step >= step:
                return
