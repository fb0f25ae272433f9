"""What an IoT device imports: publish samples, receive the edge's predictions for them.

    async with Device("topology.yaml", "cam-01") as device:
        await device.publish_array(pixels, label="boot")
        async for prediction in device.predictions():
            print(prediction.label, prediction.probability)  # with an autoencoder: prediction.anomaly, .is_anomalous

Covers devices that speak Kafka. Wire format: topic `<site>.iot.<device>`, key = the label as UTF-8 or null, value =
the payload in the device's codec, header `edged-sampled-ms` = when it was taken.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt

from edged import topology_file
from edged.adapters import images
from edged.adapters.kafka import KafkaLog
from edged.domain.counted import counted
from edged.domain.samples import codec, prediction, times
from edged.domain.samples.prediction import Prediction
from edged.domain.suggest import did_you_mean
from edged.domain.topology import Codec, Dtype, Edge, Kafka, Security, Stream, Topology
from edged.domain.topology import Device as DeviceSpec
from edged.domain.topology.topics import prediction_topics, rights_of
from edged.errors import ConfigError, FormatError, Problem, RejectedRecord
from edged.log import ThrottledLog
from edged.ports import Log, LogReader, Message, Record, TopicPartition
from edged.services.node.health import HealthBoard

MAX_IN_FLIGHT = 256
"""Messages sent to the broker at a time."""

_POLL_S = 1.0
_MAX_RECORDS_PER_POLL = 256


class Device:
    """One device, connected to Kafka between `async with` and its end.

    Methods wait while the broker is away. One task may publish while another receives.
    """

    def __init__(
        self,
        topology: Topology | str | PathLike[str],
        name: str,
        *,
        log: Log | None = None,
        receive: bool = True,
        gives_up: bool = False,
    ) -> None:
        """The device `name` of `topology`, which may be the path of the file.

        Raises ConfigError for a file that is not valid or names no such device. `log`: an open log, instead of a
        connection of its own. `receive`: record the end of the edge's predictions topic on entering, so that
        `predictions` misses none. Requires read access to that topic. `gives_up`: where Kafka refuses for good, a
        wrong password for instance, methods raise LogRefused instead of waiting for that to change.
        """
        if not isinstance(topology, Topology):
            topology = _load(Path(topology), name)
        self._topology = topology
        self._spec = topology.device(name)
        self._stream = topology.stream(self._spec.stream)
        self._topic = topology.device_topic(name)
        self._given_log = log
        self._receive = receive
        self._gives_up = gives_up
        self._health = HealthBoard()
        self._log: Log
        self._reader: LogReader | None = None
        self._received: deque[Prediction] = deque()
        self._stack = AsyncExitStack()
        self._lines = ThrottledLog()

    @classmethod
    def at(
        cls,
        bootstrap: str | Sequence[str],
        *,
        site: str,
        name: str,
        edge: str,
        shape: tuple[int, ...],
        labels: Sequence[str] = (),
        dtype: Dtype = "uint8",
        codec: Codec = "raw",
        security: Security = Security(),  # noqa: B008 - a frozen value
        log: Log | None = None,
        receive: bool = True,
    ) -> Self:
        """A device without a topology file: what the file would define, and the brokers' addresses."""
        topology = Topology(
            site=site,
            kafka=Kafka((bootstrap,) if isinstance(bootstrap, str) else tuple(bootstrap), security),
            streams=(Stream("samples", shape, dtype, tuple(labels)),),
            iot=(DeviceSpec(name, edge, "samples", codec),),
            edges=(Edge(edge),),
            archive=(),
        )
        return cls(topology, name, log=log, receive=receive)

    async def __aenter__(self) -> Self:
        """Connect. With `receive`, waits for the broker."""
        async with AsyncExitStack() as stack:
            if self._given_log is None:
                log = KafkaLog(
                    self._topology.kafka,
                    self._health,
                    client_id=f"edged-{self._spec.name}",
                    rights=rights_of(self._topology, self._spec.name),
                    gives_up=self._gives_up,
                )
                self._log = await stack.enter_async_context(log)
            else:
                self._log = self._given_log
            if self._receive:
                self._reader = await self._open_reader(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._reader = None
        await self._stack.aclose()

    async def connected(self) -> None:
        """Wait until the broker answers. Publishing waits by itself; this is for callers with a timeout."""
        await self._log.partitions([self._topic])

    @property
    def trouble(self) -> str:
        """Why Kafka does not answer; empty while it does."""
        return self._health.reason("kafka")

    async def publish(self, payload: bytes, label: str | None = None, *, sampled_ms: int | None = None) -> int:
        """Publish one sample in the device's codec; return its offset once it is acknowledged.

        It is then in the log exactly once. `sampled_ms`: when it was taken, as Unix time; None: now, by this machine's
        clock. Raises RecordTooLarge when the topic takes only smaller messages, and RejectedRecord for what the edge
        would reject, as far as that can be checked without decoding: an unknown label, a wrong length, bytes that do
        not begin as the codec's images do. Only the edge detects an image that is damaged further on. Cancelled: it
        may or may not be in the log.
        """
        (offset,) = await self.publish_many([(payload, label)], sampled_ms=sampled_ms)
        return offset

    async def publish_many(
        self, samples: Sequence[tuple[bytes, str | None]], *, sampled_ms: int | None = None
    ) -> list[int]:
        """Publish (payload, label) pairs in order, MAX_IN_FLIGHT at a time; otherwise as `publish`.

        Nothing is published when any of them would be rejected.
        """
        if sampled_ms is None:
            sampled_ms = time.time_ns() // 1_000_000
        messages = [self._message(payload, label, sampled_ms) for payload, label in samples]
        offsets: list[int] = []
        for start in range(0, len(messages), MAX_IN_FLIGHT):
            offsets += await self._log.append(messages[start : start + MAX_IN_FLIGHT], refuse_too_large=True)
        return offsets

    async def publish_array(
        self, array: npt.NDArray[Any], label: str | None = None, *, sampled_ms: int | None = None
    ) -> int:
        """Publish one sample from an array; otherwise as `publish`.

        With the codec "raw" it has the stream's shape and dtype. With "jpeg" or "png" it is pixels, uint8 [height,
        width, channels], of any size: the edge scales. Raises RejectedRecord for other arrays.
        """
        return await self.publish(self._encoded(array), label, sampled_ms=sampled_ms)

    async def predictions(self) -> AsyncIterator[Prediction]:
        """Each prediction for this device's samples published since entering, once, without end.

        Leaving the loop loses none: the next one continues. Cancelled: none is lost.
        """
        assert self._reader is not None, "a device receives between entering and leaving it, with `receive`"
        while True:
            while self._received:
                yield self._received.popleft()
            records = await self._reader.poll(max_records=_MAX_RECORDS_PER_POLL, timeout_s=_POLL_S)
            self._received.extend(each for record in records if (each := self._own_prediction(record)) is not None)

    async def _open_reader(self, stack: AsyncExitStack) -> LogReader:
        partition = TopicPartition(prediction_topics(self._topology, self._spec.edge)[0])
        watermarks = await self._log.watermarks([partition])
        return await stack.enter_async_context(self._log.reader({partition: watermarks[partition].high}))

    def _message(self, payload: bytes, label: str | None, sampled_ms: int) -> Message:
        written = None if label is None else label.encode(errors="surrogatepass")  # what is no text is then refused
        label = codec.check_record(written, payload, self._stream, self._spec.codec)
        key = None if label is None else label.encode()
        return Message(self._topic, payload, key, (times.sampled_header(max(0, sampled_ms)),))

    def _encoded(self, array: npt.NDArray[Any]) -> bytes:
        if self._spec.codec != "raw":
            if array.dtype != "uint8" or array.ndim != 3:
                raise RejectedRecord(
                    "not_an_image", f"{array.dtype} with {counted(array.ndim, 'axis')}; pixels are uint8 with 3"
                )
            return images.encode(array, self._spec.codec)
        if array.shape != self._stream.shape or array.dtype != self._stream.dtype:
            wanted = f"{self._stream.shape} {self._stream.dtype}"
            raise RejectedRecord("wrong_length", f"{array.shape} {array.dtype}; the stream has {wanted}")
        return array.astype(codec.raw_dtype(self._stream), copy=False).tobytes()

    def _own_prediction(self, record: Record) -> Prediction | None:
        if record.key != self._spec.name.encode():
            return None
        try:
            return prediction.decode(record.value)
        except FormatError as error:
            self._lines.warning(
                "sensor.prediction_skipped", None, partition=record.partition, offset=record.offset, reason=str(error)
            )
            return None


def _load(file: Path, device: str) -> Topology:
    topology = topology_file.load(file, node=device)
    names = [each.name for each in topology.iot]
    if device not in names:
        hint = did_you_mean(device, names) or f"devices: {', '.join(names)}"
        raise ConfigError((Problem("", f'no device is called "{device}"', hint, str(file)),))
    return topology
