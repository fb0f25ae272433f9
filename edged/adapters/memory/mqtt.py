"""The fake of ports.MqttBroker: a broker in memory with persistent sessions, windows and resending."""

import asyncio
import itertools
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from edged.adapters.mqtt_received import Received
from edged.errors import MqttRefused, MqttUnavailable
from edged.ports import BrokerLimits, Health, Packet, PacketProperties, Verdict

_LIMITS = BrokerLimits("5")
_UNASKED_BYTES = 1 << 20
_WITHOUT_PROPERTIES = PacketProperties()


class MemoryMqttBroker:
    """A `ports.MqttBroker` for tests, which may do what a broker or a network does.

    `limits`: stated to clients that connect. `window`: of each session. `forbidden`: topics that nobody may publish to.
    `silent`: topics whose packets it takes and does not acknowledge until `speak`. `takes_acknowledgements`: without it
    acknowledgements are lost on their way. `max_queued`, `drops_above`: packets that wait for a session, and bytes of a
    payload, beyond which it acknowledges and drops.
    """

    def __init__(self, health: Health, *, window: int = 32, limits: BrokerLimits = _LIMITS) -> None:
        self.limits = limits
        self.forbidden: set[str] = set()
        self.silent: set[str] = set()
        self.takes_acknowledgements = True
        self.max_queued = math.inf
        self.drops_above = math.inf
        self._health = health
        self._window = window
        self._is_away = False
        self._kept: dict[str, _Kept] = {}
        self._sessions: list[MemoryMqttSession] = []

    @property
    def away(self) -> bool:
        """Whether nobody can connect; set it to break all connections, or to let them come about again."""
        return self._is_away

    @away.setter
    def away(self, is_away: bool) -> None:
        self._is_away = is_away
        if is_away:
            self._health.degraded("mqtt", "memory: connection refused", awaited=False)
        for session in list(self._sessions):
            session.disconnect() if is_away else session.connect()

    def speak(self, *topics: str) -> None:
        """Be silent no longer, of these topics or all, and acknowledge what was published."""
        self.silent.difference_update(topics or tuple(self.silent))
        for session in self._sessions:
            session.answer()

    def cut(self) -> None:
        """Break all connections; they come about again at once."""
        for session in list(self._sessions):
            session.disconnect()
            session.connect()

    def forget(self) -> None:
        """Restart without a store: sessions and what is queued are gone."""
        for session in list(self._sessions):
            session.disconnect()
        self._kept.clear()
        for session in list(self._sessions):
            session.connect()

    def publish(
        self,
        topic: str,
        payload: bytes,
        properties: PacketProperties = _WITHOUT_PROPERTIES,
        *,
        qos: int = 1,
        is_retained: bool = False,
        problem: str = "",
    ) -> Verdict:
        """As any client would; `problem`: of the packet, as the receiver will see it."""
        known = properties if self.limits.version == "5" else _WITHOUT_PROPERTIES
        packet = Packet(
            topic,
            payload,
            packet_id=qos,
            session=0,
            connection=0,
            is_retained=is_retained,
            properties=known,
            num_bytes=len(payload),
            problem=problem,
        )
        takers = [each for each in self._kept.values() if any(matches(filter_, topic) for filter_ in each.filters)]
        for taker in takers:
            if len(payload) <= self.drops_above and len(taker.queue) < self.max_queued:
                taker.take(packet)
        return "delivered" if takers or self.limits.version != "5" else "nobody"

    def num_unacknowledged(self, client_id: str) -> int:
        """Packets that the session's client was sent, or will be, and has not acknowledged."""
        kept = self._kept.get(client_id)
        return len(kept.queue) + len(kept.in_flight) if kept else 0

    @property
    def num_waiting(self) -> int:
        """Packets of all sessions that were not acknowledged, there or away."""
        return sum(map(self.num_unacknowledged, self._kept))

    @asynccontextmanager
    async def session(
        self, client_id: str, subscriptions: Sequence[str] = (), *, part: str
    ) -> AsyncIterator["MemoryMqttSession"]:
        """See `ports.MqttBroker`."""
        session = MemoryMqttSession(self, self._health, client_id, tuple(subscriptions), part)
        self._sessions.append(session)
        session.connect()
        try:
            yield session
        finally:
            session.pause()
            self._sessions.remove(session)

    def admit(self, session: "MemoryMqttSession") -> "_Kept | None":
        """The broker's side of the session, if it can be reached. Another client with the same id is thrown out."""
        if self._is_away:
            return None
        for other in self._sessions:
            if other is not session and other.client_id == session.client_id:
                other.be_taken_over()
        self._health.recovered("mqtt")
        is_resumed = session.client_id in self._kept
        kept = self._kept.setdefault(session.client_id, _Kept(self._window))
        kept.is_resumed = is_resumed
        kept.filters |= set(session.subscriptions)
        return kept


@dataclass
class _Kept:
    """What the broker keeps of a session."""

    window: int
    filters: set[str] = field(default_factory=set)
    queue: deque[Packet] = field(default_factory=deque)
    in_flight: dict[int, Packet] = field(default_factory=dict)
    is_resumed: bool = False
    client: "MemoryMqttSession | None" = None
    ids: "itertools.cycle[int]" = field(default_factory=lambda: itertools.cycle(range(1, 1 << 16)))

    def take(self, packet: Packet) -> None:
        if packet.packet_id:
            self.queue.append(packet)
            self.send()
        elif self.client is not None:
            self.client.arrive(packet)

    def send(self) -> None:
        while self.client is not None and self.queue and len(self.in_flight) < self.window:
            packet = replace(self.queue.popleft(), packet_id=next(self.ids))
            self.in_flight[packet.packet_id] = packet
            self.client.arrive(packet)

    def send_again(self) -> None:
        for packet in list(self.in_flight.values()):
            if self.client is not None:
                self.client.arrive(replace(packet, is_resent=True))


class MemoryMqttSession:
    """A `ports.MqttSession` of a MemoryMqttBroker."""

    def __init__(
        self, broker: MemoryMqttBroker, health: Health, client_id: str, subscriptions: tuple[str, ...], part: str
    ) -> None:
        self.client_id = client_id
        self.subscriptions = subscriptions
        self.is_paused = False
        self._broker = broker
        self._health = health
        self._part = part
        self._kept: _Kept | None = None
        self._received = Received(client_id, _UNASKED_BYTES)
        self._is_connected = asyncio.Event()
        self._unanswered: list[tuple[str, asyncio.Future[Verdict], Verdict]] = []

    @property
    def limits(self) -> BrokerLimits | None:
        """See `ports.MqttSession`."""
        return self._broker.limits if self._kept is not None else None

    @property
    def connection(self) -> int:
        """See `ports.MqttSession`."""
        return self._received.connection

    @property
    def was_resumed(self) -> bool | None:
        """See `ports.MqttSession`."""
        return self._received.was_resumed

    async def connected(self) -> None:
        """See `ports.MqttSession`."""
        await self._is_connected.wait()

    async def receive(self, *, max_packets: int, timeout_s: float) -> list[Packet]:
        """See `ports.MqttSession`."""
        return await self._received.take(max_packets, timeout_s)

    def acknowledge(self, packets: Sequence[Packet]) -> bool:
        """See `ports.MqttSession`."""
        is_sent = True
        for packet in packets:
            if self._kept is None or packet.connection != self._received.connection:
                is_sent = False
            elif self._broker.takes_acknowledgements:
                self._kept.in_flight.pop(packet.packet_id, None)
                self._kept.send()
        return is_sent

    async def publish(self, topic: str, payload: bytes, properties: PacketProperties = _WITHOUT_PROPERTIES) -> Verdict:
        """See `ports.MqttSession`."""
        return await self.send(topic, payload, properties)

    def send(
        self, topic: str, payload: bytes, properties: PacketProperties = _WITHOUT_PROPERTIES
    ) -> "asyncio.Future[Verdict]":
        """See `ports.MqttSession`."""
        if self._kept is None:
            raise MqttUnavailable("there is no connection")
        most = self._broker.limits.packet_bytes
        if most is not None and len(payload) > most:
            raise MqttRefused(f"the packet to {topic} has {len(payload)} bytes; the broker takes {most}")
        if topic in self._broker.forbidden or not {"+", "#"}.isdisjoint(topic):
            raise MqttRefused(f"the broker refuses the packet to {topic}")
        verdict = self._broker.publish(topic, payload, properties)
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._unanswered.append((topic, answer, verdict))
        asyncio.get_running_loop().call_soon(self.answer)
        return answer

    async def publish_all(self, topic: str, payloads: Sequence[bytes]) -> None:
        """See `ports.MqttSession`."""
        for payload in payloads:
            await self.publish(topic, payload)

    def pause(self) -> None:
        """See `ports.MqttSession`."""
        self.is_paused = True
        self.disconnect()
        self._received.drop_resent()

    def resume(self) -> None:
        """See `ports.MqttSession`."""
        self.is_paused = False
        self.connect()

    # What the broker does.

    def answer(self) -> None:
        """Acknowledge what was published."""
        unanswered, self._unanswered = self._unanswered, []
        for topic, answer, verdict in unanswered:
            if topic in self._broker.silent:
                self._unanswered.append((topic, answer, verdict))
            elif not answer.done():
                answer.set_result(verdict)

    def connect(self) -> None:
        """Connect, if nothing is against it."""
        if self.is_paused or self._kept is not None:
            return
        kept = self._broker.admit(self)
        if kept is None:
            return
        self._kept, kept.client = kept, self
        self._received.connected(is_resumed=kept.is_resumed)
        self._health.recovered(self._part)
        self._is_connected.set()
        kept.send_again()
        kept.send()

    def disconnect(self) -> None:
        """The connection is gone."""
        if self._kept is not None:
            self._kept.client = None
            self._kept = None
            self._is_connected.clear()
            for _topic, answer, _verdict in self._unanswered:
                if not answer.done():
                    answer.set_exception(MqttUnavailable("the connection broke"))
                    answer.exception()  # whoever was to wait for it may be gone
            self._unanswered.clear()

    def be_taken_over(self) -> None:
        """Another client has the session now; it stays so for a while."""
        if self._kept is not None:
            self.disconnect()
            self._health.degraded(self._part, "another client has taken the session over", awaited=False)

    def arrive(self, packet: Packet) -> None:
        """The broker sends a packet."""
        self._received.put(packet)


def matches(filter_: str, topic: str) -> bool:
    """Whether a topic filter takes the topic."""
    wanted, levels = filter_.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i == len(levels):
            return False
        if level not in {"+", levels[i]}:
            return False
    return len(wanted) == len(levels)
