"""The edge's memory over many epochs, from its own log."""

from edged.cli.demo.processes import LogLine
from edged.domain.topology import MIB
from tests.support.site import DESIGNS_MODEL, Site, running
from tests.support.trends import theil_sen

EPOCHS = 15
WARM_UP = 3
"""Epochs in which buffers, caches and the allocator's free lists come to their size."""

MAX_GROWTH = MIB
"""Bytes an epoch."""


def at_the_end_of_epochs(lines: list[LogLine]) -> list[int]:
    """The process's resident bytes in the last sample before each `train.epoch`."""
    resident, found = 0, []
    for line in lines:
        if line["event"] == "res.sample":
            resident = line["rss_bytes"]
        elif line["event"] == "train.epoch":
            found.append(resident)
    return found


async def test_an_edge_does_not_grow_from_epoch_to_epoch(embedded_broker, tmp_path):
    """The design's model: after the first epochs, memory rises by less than 1 MiB an epoch."""
    settings = {"site": "memory", "epochs": EPOCHS, "model": DESIGNS_MODEL}
    async with running(Site(tmp_path, embedded_broker.bootstrap, **settings)) as site:
        site.forks = False
        await site.import_fashion(2500)
        await site.start("run", "vault")
        edge = await site.start("run", "pi-a")
        await edge.wait_for("train.finished")
        series = at_the_end_of_epochs(list(edge.lines))

    grows = theil_sen(range(WARM_UP, len(series)), series[WARM_UP:])
    told = ", ".join(f"{each / MIB:.1f}" for each in series)
    print(f"MiB at the end of each epoch: {told}; {grows / MIB:+.3f} MiB an epoch")  # noqa: T201 - the test's figure
    assert len(series) == EPOCHS
    assert grows < MAX_GROWTH
