"""A whole site under faults of all kinds, drawn at random: nothing lost, nothing twice, everything recovered.

    python -m tests.faults.soak --minutes 20 --seed 7

A site of real processes: Apache Kafka behind a proxy, an archive node, two edges that train a model together and one
each, the companion of one, and three devices that publish numbered samples. In each round some faults are drawn by the
seed and done at once; when they are over, all that was published until then must be archived and predicted, each sample
once, within two minutes, and no node may have warned of what no fault of the round explains. On stdout: the seed, each
round's faults before they are done, and what came of them, as lines of JSON. Exit code 1 when an invariant broke: the
lines `broken` say which. The CLOCKS of a seed in 1970 depend on the day; all else that is drawn depends on the seed
alone.

Needs what the tests of `brokers` need. See also: `tests/support/soak` (its parts), `README.md` (what else shows each
kind of fault).
"""

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edged.log.output import configure
from tests.support.soak import faults as kinds
from tests.support.soak import figures
from tests.support.soak.devices import NumberedDevice, publishing
from tests.support.soak.excuses import is_busy
from tests.support.soak.ledger import Found, Ledger, missing, never
from tests.support.soak.plant import Plant, running
from tests.support.soak.site_file import DEVICES

_RECOVERY_S = 120.0
"""Within which all that was published is archived and predicted once faults are over."""

_BUSY = 4
"""By how much longer that may take on a machine that has far more to do than it can."""

_LOOK_S = 0.5
_FIRST_S = 600.0
"""Until the first model serves, on a machine that does much else."""


class Soak:
    """One run. `folder`: for the site's files; `history`: where lines go."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.broken: list[str] = []
        self._began_s = time.monotonic()
        self._schedule = random.Random(seed)  # noqa: S311 - picks faults, guards nothing
        self._ledger = Ledger()
        self._plant = Plant(folder, self.report, self.broke)
        bootstrap, topology = self._plant.bootstrap, self._plant.topology
        self._devices = {name: NumberedDevice(name, topology, bootstrap, self._ledger) for name in DEVICES}
        self._world = kinds.World(self._plant, self._devices, self._ledger, random.Random(seed))  # noqa: S311 - as above
        self._done: Counter[str] = Counter()
        self._recoveries_s: list[float] = []
        self._found = Found(topology, bootstrap)

    def report(self, event: str, **fields: Any) -> None:
        """A line of the history."""
        at_s = round(time.monotonic() - self._began_s, 2)
        print(json.dumps({"at_s": at_s, "event": event, **fields}), flush=True)  # noqa: T201 - its output

    def broke(self, what: str) -> None:
        """An invariant does not hold."""
        self.broken.append(what)
        self.report("broken", what=what)

    async def run(self, minutes: float) -> None:
        """Do rounds for `minutes`, or until something is lost."""
        try:
            async with running(self._plant):
                async with publishing(list(self._devices.values())):
                    if await self._settled(_FIRST_S):
                        await self._rounds(time.monotonic() + 60 * minutes)
                await self._settled(_RECOVERY_S, everything=True)
                self._judge_nodes()
        finally:
            self._found.close()

    async def _rounds(self, until_s: float) -> None:
        number = 0
        while time.monotonic() < until_s:
            number += 1
            calm, sudden = kinds.draw(self._schedule)
            self.report("round", number=number, faults=[each.told() for each in [*calm, *sudden]])
            self._plant.excuses.begin((each.kind, each.target) for each in [*calm, *sudden])
            if calm and not await self._calm(calm):
                return
            await kinds.act(self._world, sudden)
            self._done.update(each.kind for each in [*calm, *sudden])
            if not await self._settled(_RECOVERY_S):
                return

    async def _calm(self, calm: Iterable[kinds.Fault]) -> bool:
        """Do these while nobody publishes and all is archived; False if that does not come about."""
        async with asyncio.TaskGroup() as group:
            release = asyncio.Event()
            held = [asyncio.Event() for _ in self._devices]

            async def hold(device: NumberedDevice, is_held: asyncio.Event) -> None:
                async with device.held():
                    is_held.set()
                    await release.wait()

            for device, is_held in zip(self._devices.values(), held, strict=True):
                group.create_task(hold(device, is_held))
            for each in held:
                await each.wait()
            is_calm = await self._settled(_RECOVERY_S, everything=True)
            if is_calm:
                await kinds.act(self._world, list(calm))
            release.set()
        return is_calm

    async def _settled(self, within_s: float, *, everything: bool = False) -> bool:
        """Wait until all that is published by now is archived and predicted; True when it is, each once."""
        began_s = time.monotonic()
        numbers = None if everything else list(self._ledger.device_of)
        while True:
            try:
                await asyncio.to_thread(self._found.read_on)
            except Exception as error:  # noqa: BLE001 - the site still suffers
                left = [f"the checker cannot read: {error!r}"]
            else:
                for each in never(self._ledger, self._found):
                    self.broke(each)
                    return False
                left = missing(self._ledger, self._found, numbers)
            is_serving = len(self._found.predicted) > 0
            took_s = time.monotonic() - began_s
            if not left and is_serving:
                self._recoveries_s.append(took_s)
                self.report("settled", seconds=round(took_s, 1), samples=len(self._found.archived))
                return True
            if took_s > within_s * (_BUSY if is_busy() else 1):
                for each in left or ["nothing was predicted"]:
                    self.broke(f"after {took_s:.0f} s, {each}")
                for node in self._plant.nodes.values():
                    self.report("last_words", node=node.name, text=node.last_words())
                return False
            await asyncio.sleep(_LOOK_S)

    def _judge_nodes(self) -> None:
        for each in figures.broken(self._plant.nodes, time.monotonic() - self._began_s):
            self.broke(each)

    def summary(self) -> dict[str, Any]:
        """The run in one object."""
        return {
            "rounds": len(self._recoveries_s),
            "faults": dict(sorted(self._done.items())),
            "published": len(self._ledger.device_of),
            "archived": sum(self._found.numbers.values()),
            "predicted": sum(self._found.predicted.values()),
            "dead_letters": sum(self._found.letters.values()),
            "recovery_median_s": round(statistics.median(self._recoveries_s or [0.0]), 1),
            "recovery_max_s": round(max(self._recoveries_s, default=0.0), 1),
            "seconds": round(time.monotonic() - self._began_s),
            "explained": dict(sorted(self._plant.excuses.explained.items())),
            "nodes": figures.of_nodes(self._plant.nodes),
            "broken": self.broken,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="of rounds; starting and stopping come on top (2)")
    parser.add_argument("--seed", type=int, default=1, help="what all draws follow from (1)")
    parser.add_argument("--folder", type=Path, help="keep the site's files here, with a log of each node")
    parser.add_argument("--json", action="store_true", help="the summary as one JSON object, the last line of stdout")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="edged-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "soak.log").open("w") as log:
        configure(node="soak", tier="iot", run_id="soak", stream=log)
        sys.excepthook = sys.__excepthook__  # the log has the devices' lines; a mistake of the soak is told at once
        soak = Soak(folder, options.seed)
        soak.report("seed", seed=options.seed, minutes=options.minutes)
        asyncio.run(soak.run(options.minutes))
    summary = {"seed": options.seed, "minutes": options.minutes, **soak.summary()}
    if options.json:
        print(json.dumps(summary))  # noqa: T201 - its output
    else:
        soak.report("summary", **summary)
    if options.folder is None and not soak.broken:
        shutil.rmtree(folder)
    return 1 if soak.broken else 0


if __name__ == "__main__":
    sys.exit(main())
