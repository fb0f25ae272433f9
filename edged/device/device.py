"""One device of a site, as its program sees it. See the package."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from edged.device.attachment import Attachment, of_topology, of_words
from edged.device.inbox import Inbox
from edged.domain.counted import counted
from edged.domain.device.sample import Draft
from edged.domain.device.segments import Bounds, OnFull
from edged.domain.samples import rules
from edged.domain.samples.prediction import Prediction
from edged.domain.samples.times import MAX_SAMPLED_MS
from edged.domain.topology import Codec, Dtype, Kafka, Mqtt, Security, Stream
from edged.domain.topology import Device as DeviceSpec
from edged.errors import RejectedRecord
from edged.ports import Log, MqttBroker

if TYPE_CHECKING:  # none is loaded before it is needed
    import numpy.typing as npt

    from edged.device.disk_outbox import DiskOutbox
    from edged.device.kafka import KafkaLink, StraightOutbox
    from edged.device.mqtt import MqttLink
    from edged.device.outbox import MemoryOutbox
    from edged.domain.topology import Topology


@dataclass(frozen=True, slots=True)
class Buffer:
    """A folder on the device's own disk, and how much it may hold: see `domain.device.segments.Bounds`.

    Raises ValueError for bounds that make no buffer. One device, in one process, has the folder.
    """

    folder: str | PathLike[str]
    max_bytes: int = 64 << 20
    max_age_s: float | None = None
    on_full: OnFull = "reject"

    def __post_init__(self) -> None:
        _ = self.bounds

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.max_bytes, self.max_age_s, self.on_full)


class Backlog(NamedTuple):
    """`samples`, `num_bytes`: in the buffer, without a receipt. The others count since the device was entered.

    `dropped`: removed before their receipt, because there was no room or they were too old. `damaged`: could not be
    read any more. `refused`: by the edge, for its size by Kafka's topic or, where it holds up others, by the MQTT
    broker.
    """

    samples: int = 0
    num_bytes: int = 0
    dropped: int = 0
    damaged: int = 0
    refused: int = 0


class Device:
    """One device, connected to Kafka or to the MQTT broker between `async with` and its end.

    Methods wait while the broker is away. One task may publish while another receives. With a buffer or over MQTT some
    of the work is done by tasks of its own, which live in a TaskGroup between entering and leaving.
    """

    def __init__(
        self,
        topology: "Topology | Attachment | str | PathLike[str]",
        name: str,
        *,
        buffer: Buffer | str | PathLike[str] | None = None,
        log: Log | None = None,
        broker: MqttBroker | None = None,
        receive: bool = True,
        gives_up: bool = False,
    ) -> None:
        """The device `name` of `topology`, which may be the path of the file.

        Raises ConfigError for a file that is not valid or names no such device. `log`, `broker`: an open one, instead
        of a connection of its own. `receive`: record the end of the edge's predictions on entering, so that
        `predictions` misses none; over Kafka this requires read access to that topic. `gives_up`: where Kafka refuses
        for good, a wrong password for instance, methods raise LogRefused instead of waiting for that to change.
        """
        self._at = attachment = topology if isinstance(topology, Attachment) else of_topology(topology, name)
        self._buffer = buffer if isinstance(buffer, Buffer) or buffer is None else Buffer(buffer)
        self._receives = receive
        self._link: KafkaLink | MqttLink
        if attachment.mqtt is None:
            from edged.device import kafka  # noqa: PLC0415 - see above

            self._link = kafka.KafkaLink(attachment, log, receives=receive, gives_up=gives_up)
        else:
            from edged.device import mqtt  # noqa: PLC0415 - see above

            self._link = mqtt.MqttLink(attachment, broker, receives=receive)
        self._outbox: DiskOutbox | MemoryOutbox | StraightOutbox | None = None
        self._inbox: Inbox | None = None
        self._stack = AsyncExitStack()

    @classmethod
    def at(
        cls,
        address: str | Sequence[str] | Mqtt,
        *,
        site: str,
        name: str,
        edge: str,
        shape: tuple[int, ...],
        labels: Sequence[str] = (),
        dtype: Dtype = "uint8",
        codec: Codec = "raw",
        security: Security = Security(),  # noqa: B008 - a frozen value
        receipts: bool = True,
        buffer: Buffer | str | PathLike[str] | None = None,
        log: Log | None = None,
        broker: MqttBroker | None = None,
        receive: bool = True,
    ) -> Self:
        """A device without a topology file: what the file would define.

        `address`: Kafka's brokers, reached with `security`; or a `domain.topology.Mqtt`. `receipts`: as in the file;
        matters only with a broker of MQTT 3.1.1, see `publish`.
        """
        stream = Stream("samples", shape, dtype, tuple(labels))
        if isinstance(address, Mqtt):
            spec = DeviceSpec(name, edge, stream.name, codec, "mqtt", "counter", receipts)
            attachment = of_words(site, spec, stream, address)
        else:
            servers = (address,) if isinstance(address, str) else tuple(address)
            attachment = of_words(site, DeviceSpec(name, edge, stream.name, codec), stream, Kafka(servers, security))
        return cls(attachment, name, buffer=buffer, log=log, broker=broker, receive=receive)

    async def __aenter__(self) -> Self:
        """Open the buffer, and connect. Over Kafka with `receive`, waits for the broker.

        Raises AlreadyRunning when another process has the buffer, and StateFolderRefused when it cannot be used.
        """
        async with AsyncExitStack() as stack:
            outbox: DiskOutbox | MemoryOutbox | StraightOutbox
            if self._buffer is not None:
                from edged.device import disk_outbox  # noqa: PLC0415 - see above

                folder, bounds = Path(self._buffer.folder), self._buffer.bounds
                outbox = await stack.enter_async_context(disk_outbox.opened(folder, self._at.owner, bounds))
            else:
                outbox = self._link.outbox()
            self._inbox = inbox = Inbox(self._at.device.name, outbox.series)
            await stack.enter_async_context(self._link)
            await stack.enter_async_context(_alongside(*self._work(outbox, inbox)))
            self._outbox = outbox
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        """What is in the buffer stays there, for the next time; who still publishes is cancelled. See also: `flush`."""
        self._outbox = None
        await self._stack.aclose()

    def _work(
        self, outbox: "DiskOutbox | MemoryOutbox | StraightOutbox", inbox: Inbox
    ) -> Sequence[Coroutine[Any, Any, None]]:
        if outbox.kind == "straight":
            return ()
        if self._link.transport == "mqtt":
            return outbox.work(), self._link.work(outbox, inbox)
        assert outbox.kind == "disk"
        return outbox.work(), self._link.send(outbox, outbox.buffer.num_samples)

    async def connected(self) -> None:
        """Wait until the broker answers. Publishing waits by itself; this is for callers with a timeout."""
        await self._link.connected()

    @property
    def trouble(self) -> str:
        """Why nothing can be sent; empty while it can."""
        return self._link.trouble

    @property
    def backlog(self) -> Backlog:
        """What is in the buffer, and how many samples were dropped, damaged or refused."""
        outbox = self._outbox
        if outbox is None or outbox.kind != "disk":
            return Backlog(refused=outbox.num_refused if outbox is not None else 0)
        buffer = outbox.buffer
        return Backlog(buffer.num_samples, buffer.num_bytes, buffer.dropped, buffer.damaged, outbox.num_refused)

    async def publish(self, payload: bytes, label: str | None = None, *, sampled_ms: int | None = None) -> str:
        """Publish one sample in the device's codec; return its id once it is safe.

        With a buffer: once it is durable on this device's disk. It is then delivered, unless the buffer's bounds drop
        it first, or it is refused, see `Backlog`, however often network, brokers, edge and this process end. Without
        one: once Kafka holds it, exactly once; but with an MQTT broker of 3.1.1, and without `receipts`, once the
        broker has acknowledged it.

        `sampled_ms`: when it was taken, as Unix time; None: now, by this machine's clock. Raises ValueError for what no
        edge reads.

        Raises RejectedRecord for what the edge would reject, as far as that can be checked without decoding: an unknown
        label, a wrong length, bytes that do not begin as the codec's images do. Only the edge detects an image that is
        damaged further on. Raises BufferFull, DiskFull or StorageError when the buffer does not take it; without a
        buffer RecordTooLarge when the Kafka topic takes only smaller ones, and MqttRefused when the MQTT broker does.
        Cancelled: it may or may not be published.
        """
        (sample_id,) = await self.publish_many([(payload, label)], sampled_ms=sampled_ms)
        return sample_id

    async def publish_many(
        self, samples: Sequence[tuple[bytes, str | None]], *, sampled_ms: int | None = None
    ) -> list[str]:
        """Publish (payload, label) pairs in order, as many at a time as are written at once; otherwise as `publish`.

        Nothing is published when any of them would be rejected.
        """
        assert self._outbox is not None, "a device publishes between entering and leaving it"
        if sampled_ms is None:
            sampled_ms = time.time_ns() // 1_000_000
        if not isinstance(sampled_ms, int) or sampled_ms > MAX_SAMPLED_MS:
            raise ValueError(f"sampled_ms is in whole milliseconds, at most {MAX_SAMPLED_MS}, not {sampled_ms!r:.40}")
        return await self._outbox.add([self._draft(payload, label, sampled_ms) for payload, label in samples])

    async def publish_array(
        self, array: "npt.NDArray[Any]", label: str | None = None, *, sampled_ms: int | None = None
    ) -> str:
        """Publish one sample from an array; otherwise as `publish`.

        With the codec "raw" it has the stream's shape and dtype. With "jpeg" or "png" it is pixels, uint8 [height,
        width, channels], of any size: the edge scales. Raises RejectedRecord for other arrays.
        """
        from edged.device.arrays import payload_of  # noqa: PLC0415 - loads numpy, and Pillow for images

        return await self.publish(
            payload_of(array, self._at.stream, self._at.device.codec), label, sampled_ms=sampled_ms
        )

    async def flush(self) -> None:
        """Wait until the buffer is empty: all that was published has its receipt. At once without a buffer."""
        if self._outbox is not None:
            await self._outbox.empty()

    async def predictions(self) -> AsyncIterator[Prediction]:
        """Each prediction for a sample that this device has published, once, without end; its `id` is the sample's.

        Those since entering, also for samples that an earlier run has left in the buffer. Leaving the loop loses none:
        the next one continues. Cancelled: none is lost. Over MQTT the oldest are dropped when nobody takes them.
        """
        inbox = self._inbox
        assert inbox is not None, "a device receives between entering and leaving it, with `receive`"
        assert self._receives, "a device receives between entering and leaving it, with `receive`"
        while True:
            while len(inbox):
                yield inbox.take()
            await self._link.receive(inbox)

    def _draft(self, payload: bytes, label: str | None, sampled_ms: int) -> Draft:
        for what, text, kind in (("payload", payload, bytes), ("label", label or "", str)):
            if not isinstance(text, kind):
                raise TypeError(f"a {what} is {kind.__name__}, not {type(text).__name__}")
        written = None if label is None else label.encode(errors="surrogatepass")  # what is no text is then refused
        label = rules.check_record(written, payload, self._at.stream, self._at.device.codec)
        most = None if self._at.mqtt is None else self._at.mqtt.packet_bytes
        if most is not None and len(payload) > most:
            raise RejectedRecord(rules.TOO_LARGE, f"{counted(len(payload), 'byte')}; a packet has at most {most}")
        return Draft(None if label is None else label.encode(), payload, max(0, sampled_ms))


@asynccontextmanager
async def _alongside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Inside, the work goes on in tasks; it is cancelled at the end."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        try:
            yield
        finally:
            for each in tasks:
                each.cancel()
