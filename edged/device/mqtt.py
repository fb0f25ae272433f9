"""A device's samples to the MQTT broker, until edged's own receipts; and its predictions from there.

The broker's acknowledgement means that it has the sample, not that it still has it after a crash. edged's receipt means
that Kafka holds it. Over MQTT 5 the device asks for receipts; over 3.1.1 it gets them if the topology has `receipts:
true`, and otherwise the broker's acknowledgement counts.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Literal, Self

from edged.aio import Backoff
from edged.device.attachment import Attachment
from edged.device.inbox import Inbox
from edged.device.outbox import MemoryOutbox, Outbox
from edged.domain.device.sample import Buffered
from edged.domain.device.window import Window
from edged.domain.mqtt import receipts, topics
from edged.domain.mqtt.properties import ID, LABEL, RECEIPT, SAMPLED_MS
from edged.errors import MqttRefused, MqttUnavailable
from edged.log import ThrottledLog
from edged.ports import MqttBroker, MqttSession, Packet, PacketProperties
from edged.services.node.health import HealthBoard

if TYPE_CHECKING:  # takes the extra `mqtt`
    from edged.adapters.mqtt import PahoBroker


_MAX_SAMPLES, _MAX_BYTES = 64, 2 << 20
"""At most, without a receipt at a time."""

_SILENCE_S, _MAX_SILENCE_S = 10.0, 600.0
"""After this time without a receipt the first sample is sent again; doubled each time."""

_RECEIVE_S = 60.0
_MAX_PACKETS = 64


class MqttLink:
    """The device's session with the broker, while it is entered. `broker`: instead of the attachment's."""

    transport: Literal["mqtt"] = "mqtt"

    def __init__(self, attachment: Attachment, broker: MqttBroker | None, *, receives: bool) -> None:
        self._at = attachment
        self._given_broker = broker
        site, name = attachment.site, attachment.device.name
        self._receipts = topics.receipts_topic(site, name)
        self._filters = [self._receipts, *([topics.predictions_topic(site, name)] if receives else [])]
        self._part = f"device/{name}"
        self._health = HealthBoard()
        self._session: MqttSession
        self._stack = AsyncExitStack()
        self._window = Window(_MAX_SAMPLES, _MAX_BYTES)
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._arrived = asyncio.Event()
        self._backoff = Backoff(max_s=10.0)
        self._has_failed = False
        self._connection = 0
        self._unsendable = ""
        self._unanswered = ""
        self._lines = ThrottledLog()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            broker = self._given_broker
            if broker is None:
                broker = await stack.enter_async_context(self._own_broker())
            client_id = topics.device_client_id(self._at.site, self._at.device.name)
            self._session = await stack.enter_async_context(broker.session(client_id, self._filters, part=self._part))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @property
    def trouble(self) -> str:
        return self._health.reason("mqtt") or self._health.reason(self._part) or self._unsendable or self._unanswered

    def outbox(self) -> MemoryOutbox:
        """For a device without a buffer."""
        return MemoryOutbox()

    async def connected(self) -> None:
        await self._session.connected()

    async def receive(self, inbox: Inbox) -> None:
        """Wait until more has come."""
        if not len(inbox):
            self._arrived.clear()
            await self._arrived.wait()

    async def work(self, outbox: Outbox, inbox: Inbox) -> None:
        """Send samples from the outbox, and handle receipts and predictions, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fill(outbox))
            group.create_task(self._send(outbox, group))
            group.create_task(self._probe())
            group.create_task(self._take_in(outbox, inbox))

    async def _fill(self, outbox: Outbox) -> None:
        while True:
            for each in await outbox.take(_MAX_SAMPLES, _MAX_BYTES):
                while not self._window.has_room:
                    self._room.clear()
                    await self._room.wait()
                self._window.add(each)
                self._changed.set()

    async def _send(self, outbox: Outbox, group: asyncio.TaskGroup) -> None:
        """Tasks start in the order in which they are created, so the session gets the samples in order."""
        while True:
            await self._session.connected()
            if self._has_failed:
                self._has_failed = False
                await self._backoff.wait()
                continue
            self._notice_connection()
            self._changed.clear()
            while (buffered := self._window.send()) is not None:
                group.create_task(self._publish(buffered, outbox))
            await self._changed.wait()

    async def _publish(self, buffered: Buffered, outbox: Outbox) -> None:
        limits = self._session.limits
        try:
            if limits is None:
                raise MqttUnavailable("there is no connection")  # noqa: TRY301 - as the session says it
            topic, properties = self._address(buffered, is_v5=limits.version == "5")
            verdict = await self._session.publish(topic, buffered.sample.payload, properties)
        except MqttUnavailable:
            self._window.lost()
            self._fail(buffered)
        except MqttRefused as error:
            self._refused(buffered, outbox, error)
        else:
            if verdict == "nobody":
                self._fail(buffered, f"no edge takes the samples of {self._at.device.name} from the broker")
                return
            self._unsendable = ""
            self._backoff.reset()
            self._window.taken(buffered.id)
            if limits.version != "5" and not self._at.device.receipts:
                self._settle(buffered.id, "", outbox)
        self._changed.set()

    async def _probe(self) -> None:
        silence_s = _SILENCE_S
        while True:
            settled = self._window.num_settled
            await asyncio.sleep(silence_s)
            self._notice_connection()
            if self._window.num_settled == settled and self._session.limits is not None and self._window.probe():
                self._tell_silence(silence_s)
                silence_s = min(2 * silence_s, _MAX_SILENCE_S)
                self._changed.set()
            elif self._window.num_settled != settled:
                silence_s = _SILENCE_S

    def _tell_silence(self, silence_s: float) -> None:
        edge, samples = self._at.device.edge, len(self._window)
        self._unanswered = (
            f"the broker takes samples, and no receipt has come for {silence_s:.0f} s: does edge {edge} run,"
            " reach Kafka, and have this device in its file?"
        )
        self._lines.warning("sensor.unanswered", None, edge=edge, samples=samples, silence_s=silence_s)

    async def _take_in(self, outbox: Outbox, inbox: Inbox) -> None:
        while True:
            packets = await self._session.receive(max_packets=_MAX_PACKETS, timeout_s=_RECEIVE_S)
            self._notice_connection()
            for packet in packets:
                if packet.topic == self._receipts:
                    self._read_receipts(packet, outbox)
                elif not packet.is_retained:
                    inbox.put(packet.payload)
                    self._arrived.set()
            self._session.acknowledge(packets)

    def _notice_connection(self) -> None:
        """After a reconnection: the broker may have forgotten what it had taken."""
        if self._session.connection != self._connection:
            self._connection = self._session.connection
            self._window.lost()
            self._changed.set()

    def _read_receipts(self, packet: Packet, outbox: Outbox) -> None:
        if packet.is_retained or packet.problem:
            return
        for sample_id, refusal in receipts.read(packet.payload):
            self._settle(sample_id, refusal, outbox)
        self._changed.set()

    def _settle(self, sample_id: str, refusal: str, outbox: Outbox) -> None:
        buffered = self._window.settle(sample_id)
        if buffered is None:
            return
        self._unanswered = ""
        outbox.settled(buffered, refusal)
        self._pass_on(outbox)

    def _pass_on(self, outbox: Outbox) -> None:
        position = self._window.passed()
        if position is not None:
            outbox.passed(position)
            self._room.set()

    def _refused(self, buffered: Buffered, outbox: Outbox, error: MqttRefused) -> None:
        """Give up a sample that a caller waits for; retry one in a buffer: an administrator may grant the right.

        But not while others wait for it whose like the broker takes.
        """
        is_given_up = outbox.failed(error, buffered)
        if not is_given_up and self._window.refused(buffered.id):
            outbox.settled(buffered, str(error))
            is_given_up = True
        if is_given_up:
            self._window.drop(buffered.id)
            self._pass_on(outbox)
        else:
            self._fail(buffered, str(error))

    def _fail(self, buffered: Buffered, reason: str = "") -> None:
        if reason:
            self._unsendable = reason
            self._lines.warning("sensor.unsendable", None, sample_id=buffered.id, reason=reason)
        self._window.failed(buffered.id)
        self._has_failed = True
        self._changed.set()

    def _address(self, buffered: Buffered, *, is_v5: bool) -> tuple[str, PacketProperties]:
        """The sample's topic and properties. Raises MqttRefused for a label that cannot be sent over 3.1.1."""
        site, name, kept = self._at.site, self._at.device.name, buffered.sample
        label = "" if kept.label is None else kept.label.decode()
        if is_v5:
            labels = ((LABEL, label),) if label else ()
            user = (*labels, (ID, buffered.id), (SAMPLED_MS, str(kept.sampled_ms)), (RECEIPT, "1"))
            return topics.samples_topic(site, name), PacketProperties(user)
        if label and not topics.is_level(label):
            raise MqttRefused(f'the label "{label}" is no level of a topic, and the broker does not speak MQTT 5')
        return topics.samples_topic(site, name, label, buffered.id), PacketProperties()

    def _own_broker(self) -> "PahoBroker":
        from edged.adapters.mqtt import PahoBroker  # noqa: PLC0415 - see above

        assert self._at.mqtt is not None
        return PahoBroker(self._at.mqtt, self._health)
