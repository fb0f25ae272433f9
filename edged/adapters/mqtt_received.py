"""What an MQTT session has received and nobody has taken yet: the same for the adapter and for the fake.

Numbers the connections, and the broker's sessions, by which a packet that comes again is told from another with its id.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import replace

from edged.log import ThrottledLog, logger
from edged.ports import Packet

_PACKET_BYTES = 512
"""Of a packet, beside its payload."""


class Received:
    """Of one client id; empty, and without a connection, at first. See `ports.MqttSession` for the numbers.

    `max_unasked_bytes`: of packets of QoS 0. Left unread, they would fill the broker's memory instead.
    """

    def __init__(self, client_id: str, max_unasked_bytes: int) -> None:
        self._client_id = client_id
        self._max_unasked_bytes = max_unasked_bytes
        self._packets: deque[Packet] = deque()
        self._some = asyncio.Event()
        self._lines = ThrottledLog()
        self._unasked_bytes = self._num_dropped = 0
        self._session = 0
        self.connection = 0
        self.was_resumed: bool | None = None

    def connected(self, *, is_resumed: bool) -> None:
        """There is another connection; `is_resumed`: the broker still has the session. Logs when it has lost it."""
        self.connection += 1
        if is_resumed:  # what was not taken yet comes again, and only then
            self.drop_resent()
        if self.was_resumed is None:
            self.was_resumed = is_resumed
        elif not is_resumed:
            logger().warning("mqtt.session_lost", client=self._client_id)
        if not is_resumed or not self._session:
            self._session += 1

    def put(self, packet: Packet) -> None:
        """A packet of the present connection, which gets its numbers here. One without an id only if there is room."""
        if not packet.packet_id:
            if self._unasked_bytes > self._max_unasked_bytes:
                self._num_dropped += 1
                self._lines.warning("mqtt.dropped", None, client=self._client_id, packets=self._num_dropped)
                return
            self._unasked_bytes += _num_bytes(packet)
        self._packets.append(replace(packet, session=self._session, connection=self.connection))
        self._some.set()

    async def take(self, max_packets: int, timeout_s: float) -> list[Packet]:
        """The oldest ones; empty when none came in time. Cancelled: none is lost."""
        if not self._packets:
            self._some.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._some.wait()
        taken = [self._packets.popleft() for _ in range(min(max_packets, len(self._packets)))]
        self._unasked_bytes -= sum(_num_bytes(packet) for packet in taken if not packet.packet_id)
        return taken

    def drop_resent(self) -> None:
        """Forget what the broker sends again at the next connection: all packets with an id."""
        self._packets = deque(packet for packet in self._packets if not packet.packet_id)


def _num_bytes(packet: Packet) -> int:
    return _PACKET_BYTES + len(packet.payload)
