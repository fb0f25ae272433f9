"""A request that waits for a broker which froze goes to the next leader once the cluster does without that broker.

Brokers are played by servers in this process.
"""

import asyncio
import contextlib
import struct
from typing import Any

import pytest
from aiokafka import AIOKafkaClient
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v1

from edged.adapters.kafka.client_log import ClientLog
from edged.adapters.kafka.connection import Connection, Outages, Setup
from edged.adapters.kafka.refusals import Identity
from edged.adapters.memory.health import RecordingHealth

LIVING, FROZEN = 1, 2
NEVER_S = 1e6
"""A timeout that no test would live to see."""


class Broker:
    """Answers as a broker that knows metadata requests alone; a frozen one only says that it does.

    `cluster`: the brokers that it tells of. `unanswered` is set at a request that it does not answer, `idle` when all
    connections have been closed.
    """

    def __init__(self, *, frozen: bool) -> None:
        self.cluster: list[tuple[int, str, int, None]] = []
        self.unanswered = asyncio.Event()
        self.idle = asyncio.Event()
        self._num_connections = 0
        self._is_frozen = frozen

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._num_connections += 1
        self.idle.clear()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                request = await reader.readexactly(size)
                is_greeting = struct.unpack_from(">h", request)[0] != MetadataRequest.API_KEY
                if self._is_frozen and not is_greeting:
                    self.unanswered.set()
                    continue
                body = struct.pack(">hihhh", 0, 1, MetadataRequest.API_KEY, 0, 1) if is_greeting else self._metadata()
                writer.write(struct.pack(">i", 4 + len(body)) + request[4:8] + body)
        writer.close()
        self._num_connections -= 1
        if not self._num_connections:
            self.idle.set()

    def _metadata(self) -> bytes:
        encoded: bytes = MetadataResponse_v1(self.cluster, LIVING, []).encode()
        return encoded


async def leader_asked(client: AIOKafkaClient) -> int:
    """Ask the frozen broker while the cluster counts it, else the living one; which of them it was that answered."""
    leader = FROZEN if client.cluster.broker_metadata(FROZEN) else LIVING
    await client.send(leader, MetadataRequest([]))
    return leader


@pytest.mark.parametrize(
    ("deadline_s", "is_other_new"), [(0.05, False), (NEVER_S, True)], ids=["asked when it is overdue", "told by chance"]
)
async def test_a_request_to_a_frozen_broker_is_sent_again_once_the_cluster_does_without_it(
    deadline_s: float, *, is_other_new: bool
) -> None:
    """Its own timeout plays no part: another client of the log, which may ask the frozen broker first, hears of it."""
    living, frozen = Broker(frozen=False), Broker(frozen=True)
    async with (
        await asyncio.start_server(living.serve, "127.0.0.1", 0) as server,
        await asyncio.start_server(frozen.serve, "127.0.0.1", 0) as frozen_server,
    ):
        address, frozen_address = (each.sockets[0].getsockname()[:2] for each in (server, frozen_server))
        living.cluster = [(LIVING, *address, None), (FROZEN, *frozen_address, None)]
        options: dict[str, Any] = {"bootstrap_servers": ["{}:{}".format(*address)]}
        setup = Setup(options, Outages(RecordingHealth(), deadline_s), ClientLog(), Identity())
        waiting, other = Connection(setup, request_timeout_s=NEVER_S), Connection(setup, request_timeout_s=1.0)
        if not is_other_new:
            await other.client()
        answer = asyncio.ensure_future(waiting.retry("a question", leader_asked))
        await frozen.unanswered.wait()
        del living.cluster[1:]
        if is_other_new:
            await other.client()
        assert await answer == LIVING
        await waiting.close()
        await other.close()
        for broker in (living, frozen):  # else the loop's end cancels who has not yet heard that its client has gone
            await broker.idle.wait()
