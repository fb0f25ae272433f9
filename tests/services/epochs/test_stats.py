"""What an epoch costs per sample, and the line at its end."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.domain.epochs.read_stats import ReadStats
from edged.services.cache.cache import Cache
from edged.services.cache.shared import CacheShare, SharedCache
from edged.services.epochs.stats import EpochStats
from tests.support.training_world import STREAM

pytestmark = pytest.mark.looptime


@dataclass
class Client:
    """The totals of an archive client."""

    wait_s: float = 0.0
    fetching_s: float = 0.0
    num_fetched: int = 0


def stats_of(client: Client) -> tuple[EpochStats, CacheShare]:
    share = SharedCache(Cache(None, RecordingHealth(), memory_bytes=0, disk_bytes=0), STREAM).share()
    return EpochStats(client, share), share  # type: ignore[arg-type]


def read(num_reads: int) -> ReadStats:
    reads = ReadStats(num_reads)
    reads.add(np.arange(num_reads), np.zeros(num_reads, np.bool_), np.ones(num_reads, np.float32))
    return reads


async def test_costs_are_the_time_not_waited_for_each_read_and_the_time_fetching_for_each_sample():
    client = Client()
    stats, share = stats_of(client)
    stats.begin(read(50))
    await asyncio.sleep(20)
    client.wait_s, client.fetching_s, client.num_fetched = 10.0, 6.0, 30
    compute_s, fetch_s = stats.costs()
    assert compute_s == pytest.approx(10 / 50)
    assert fetch_s == pytest.approx(6 / 30)
    assert share.benefit == pytest.approx(6 / 30 * 50 / 20)


async def test_what_was_fetched_before_an_epoch_begins_counts_for_its_fetch_time():
    client = Client()
    stats, _ = stats_of(client)
    stats.begin(read(10))
    stats.costs()
    client.fetching_s, client.num_fetched = 8.0, 80
    stats.begin(read(10))
    await asyncio.sleep(1)
    client.fetching_s, client.num_fetched = 9.0, 90
    assert stats.costs()[1] == pytest.approx(0.1)


async def test_an_epoch_without_reads_and_fetches_costs_nothing_and_measures_no_benefit():
    stats, share = stats_of(Client())
    stats.begin(ReadStats(0))
    assert stats.costs() == (0.0, 0.0)
    assert share.benefit is None


async def test_the_line_is_that_of_the_epoch_alone(log_lines):
    client = Client(wait_s=5.0)
    stats, _ = stats_of(client)
    stats.begin(read(3))
    client.wait_s = 7.0
    plan: Any = type("Plan", (), {"epoch": 4})
    stats.log(plan)
    [line] = log_lines("cache.epoch")
    assert (line["epoch"], line["reads"], line["wait_s"]) == (4, 3, 2.0)
