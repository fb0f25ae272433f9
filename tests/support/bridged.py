"""An edge's bridge in the test's own process: what a device publishes to a real MQTT broker, in a log in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.mqtt import PahoBroker
from edged.domain.mqtt import topics
from edged.domain.topology import Device, Edge, IdKind, Kafka, Mqtt, Stream, Topology
from edged.services.ingest.dead_letters import DeadLetters
from edged.services.mqtt.bridge import DeviceBridge
from edged.services.mqtt.bridge_report import BridgeReport

SITE = "greenhouse"


@contextlib.asynccontextmanager
async def bridged(
    mqtt: Mqtt, name: str, *, shape: tuple[int, ...] = (4,), ids: IdKind = "counter", receipts: bool = False
) -> AsyncIterator[MemoryLog]:
    """The log that the bridge of the device fills; `ids`: how it names its samples."""
    device = Device(name, "pi", "samples", transport="mqtt", id=ids, receipts=receipts)
    site = Topology(
        site=SITE,
        kafka=Kafka(("nowhere:1",)),
        streams=(Stream("samples", shape, "uint8"),),
        iot=(device,),
        edges=(Edge("pi"),),
        archive=(),
        mqtt=mqtt,
    )
    log = MemoryLog()
    client_id, filters = topics.bridge_client_id(SITE, name), topics.of_device(SITE, name)
    async with (
        PahoBroker(mqtt, RecordingHealth()) as broker,
        broker.session(client_id, filters, part="device") as session,
        asyncio.TaskGroup() as group,
    ):
        letters, report = DeadLetters(log, f"{SITE}.dead-letters.pi"), BridgeReport()
        bridge = DeviceBridge(log, site, device, session, dead_letters=letters, report=report)
        running = [group.create_task(each) for each in (bridge.run(), bridge.receipts.run())]
        await session.connected()
        yield log
        for each in running:
            each.cancel()
