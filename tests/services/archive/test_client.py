"""The archive's client matches replies to requests, repeats unanswered ones and reports silence."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.domain import tensors
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SamplesRequest
from edged.domain.archive.snapshot import BlockRef
from edged.domain.epochs.window import Window
from edged.ports import Message, TopicSpec
from edged.services.archive.client import ArchiveAddress, ArchiveClient
from edged.services.archive.fetch import WindowFetch
from edged.settings import Timing

ADDRESS = ArchiveAddress("pi-a", "fashion", "site.archive.requests", "site.epochs.pi-a")

pytestmark = pytest.mark.looptime


class Bench:
    """Two clients of one process, and an archive that answers when the test does."""

    def __init__(self):
        self.log = MemoryLog()
        self.health = RecordingHealth()
        self.client = ArchiveClient(self.log, self.health, ADDRESS, Timing())
        self.peer = ArchiveClient(self.log, self.health, ADDRESS, Timing(), self.client)

    def requests(self):
        """Those sent so far."""
        values = [record.value for record in self.log.records(ADDRESS.requests_topic)]
        return [each for each in map(protocol.decode_request, values) if isinstance(each, SamplesRequest)]

    async def answer(self, request, position=(0, 1)):
        """A part with the samples at these positions of the request."""
        n = len(position)
        part = SamplesPart(
            request.request, 0, True, np.array(position, np.int64), (None,) * n, ("raw",) * n, (b"x",) * n,
            np.zeros(0, np.int64),
        )  # fmt: skip
        await self.log.append([Message(ADDRESS.epochs_topic, protocol.encode_part(part))])


@pytest.fixture
def bench():
    return Bench()


def window_fetch():
    rows = np.arange(2, dtype=np.uint16)
    return WindowFetch(Window((BlockRef("pi-a", 3),), (rows,), np.arange(2), np.arange(2), 2))


async def test_a_fetch_completes_with_its_reply(bench):
    fetch = window_fetch()
    async with bench.client.open():
        await bench.client.ask(fetch)
        await bench.answer(*bench.requests())
        await bench.client.wait(fetch)
        assert bench.client.num_fetched == 2
        assert bench.client.num_bytes == 0
        assert not bench.client.is_waiting


async def test_a_silent_archive_is_reported_and_asked_again_for_what_is_missing(bench, log_lines):
    fetch = window_fetch()
    async with bench.client.open():
        await bench.client.ask(fetch)
        first = bench.requests()[0]
        await bench.answer(first, [1])
        await bench.client.pause(Timing().archive_deadline_s + 9)
        assert "archive" in bench.health.reasons
        assert [line["samples"] for line in log_lines("epoch.asked_again")] == [1]
        assert [rows.tolist() for rows in bench.requests()[-1].rows] == [[0]]
        await bench.answer(first)  # late: still accepted
        await bench.client.wait(fetch)
        assert bench.health.reasons == {}


async def test_replies_that_are_malformed_or_of_another_process_are_ignored(bench, log_lines):
    fetch = window_fetch()
    async with bench.client.open():
        await bench.client.ask(fetch)
        await bench.log.append([Message(ADDRESS.epochs_topic, b"nonsense")])
        await bench.answer(SamplesRequest("another-1", "pi-a", "fashion", (), ()))
        await bench.client.drain()
        assert fetch.num_open == 2
        assert len(log_lines("epoch.malformed")) == 1


async def test_an_archive_of_another_version_is_told_as_such_until_it_answers_in_ours(bench):
    fetch = window_fetch()
    async with bench.client.open():
        await bench.client.ask(fetch)
        reply = tensors.encode({}, {"edged": "samples_part/2"})
        await bench.log.append([Message(ADDRESS.epochs_topic, reply)])
        await bench.client.drain()
        assert "'samples_part/2', of another version of edged: upgrade" in bench.health.reasons["archive"]
        await bench.answer(*bench.requests())
        await bench.client.wait(fetch)
        assert bench.health.reasons == {}


async def test_a_shared_fetch_completes_though_the_peer_that_asked_forgets_it(bench):
    fetch = window_fetch()
    async with bench.client.open(), bench.peer.open():
        await bench.client.ask(fetch)
        bench.peer.join(fetch)
        bench.client.forget(fetch)
        await bench.answer(*bench.requests())
        await bench.peer.wait(fetch)


async def test_replies_to_a_forgotten_fetch_are_ignored(bench):
    fetch = window_fetch()
    async with bench.client.open():
        await bench.client.ask(fetch)
        bench.client.forget(fetch)
        await bench.answer(*bench.requests())
        await bench.client.pause(1)
        assert fetch.num_open == 2


async def test_time_spent_waiting_and_fetching_is_counted(bench):
    fetch = window_fetch()
    async with bench.client.open():
        await bench.client.ask(fetch)
        waiting = asyncio.create_task(bench.client.wait(fetch))
        await asyncio.sleep(3)
        assert bench.client.is_waiting
        await bench.answer(*bench.requests())
        await waiting
        await asyncio.sleep(5)
        assert bench.client.wait_s == pytest.approx(3)
        assert bench.client.fetching_s == pytest.approx(3)


@pytest.mark.parametrize(("partitions", "expected"), [(1, 0), (2, 1), (3, 0), (8, 3)])
async def test_requests_go_to_the_edges_partition_or_to_one_that_there_is(partitions, expected):
    log = MemoryLog()
    await log.ensure([TopicSpec(ADDRESS.requests_topic, partitions=partitions)])
    client = ArchiveClient(log, RecordingHealth(), replace(ADDRESS, requests_partition=3), Timing())

    async with client.open():
        await client.ask(window_fetch())

    assert len(log.records(ADDRESS.requests_topic, expected)) == 1
