"""The edge's MQTT side: a session for each device, and its tasks; also for devices that a reload adds.

The client is an extra, and loaded when a device needs it.
"""

import asyncio
from typing import TYPE_CHECKING

from edged.app.way_back import WayBack
from edged.domain.mqtt import topics
from edged.domain.topology import Device, Topology
from edged.ports import Health, Log, MqttBroker, Progress, Statistics
from edged.services.ingest.dead_letters import DeadLetters
from edged.services.mqtt.bridge import DeviceBridge
from edged.services.mqtt.bridge_report import BridgeReport
from edged.services.mqtt.limits import LimitsCheck
from edged.settings import Timing, TopologyInUse

END_S = 3.0
"""At a stop, for what is being written to Kafka: acknowledged, it does not come again."""

if TYPE_CHECKING:
    from edged.adapters.mqtt import PahoBroker


class MqttDevices:
    """All MQTT devices of one edge, as one service."""

    def __init__(self, log: Log, in_use: TopologyInUse, edge: str, health: Health, timing: Timing) -> None:
        """Raises ConfigError when the broker's certificate files cannot be used, and as `client` does."""
        # at once, for what it raises: `run` begins when Kafka is there
        self._broker = _broker(in_use.topology, health) if in_use.topology.mqtt_devices_of(edge) else None
        self._log = log
        self._in_use = in_use
        self._edge = edge
        self._health = health
        self._timing = timing
        self._report = BridgeReport()
        self._bridges: dict[str, DeviceBridge] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._way_back = WayBack(log, edge, health, timing)

    async def run(self) -> None:
        """Serve the devices, and those that a reload adds, until cancelled.

        Cancelled: what is being written is acknowledged, then the places of predictions are committed. What Kafka does
        not take by then comes again.
        """
        topology = await self._with_devices()
        assert topology.mqtt is not None
        async with self._broker or _broker(topology, self._health) as broker, asyncio.TaskGroup() as group:
            group.create_task(self._report_regularly(), name="mqtt report")
            limits = LimitsCheck(broker, topology.mqtt, topology.site, self._edge, self._health)
            group.create_task(limits.run(), name="mqtt limits")
            letters = DeadLetters(self._log, topology.dead_letters_topic(self._edge), len(topology.iot))
            try:
                while True:
                    self._way_back.start(topology, group)
                    for device in topology.mqtt_devices_of(self._edge):
                        if device.name not in self._serving:
                            serving = self._serve(topology, device, broker, letters)
                            self._serving[device.name] = group.create_task(serving, name=f"mqtt {device.name}")
                    topology = await self._in_use.other_than(topology)
            except asyncio.CancelledError:
                await self._end()
                raise

    def progress(self) -> Progress:
        """Steps are packets taken and predictions read, of all devices."""
        all_of_them = [*(bridge.progress() for bridge in self._bridges.values()), self._way_back.progress()]
        return Progress(sum(each.steps for each in all_of_them), all(each.idle for each in all_of_them))

    def statistics(self) -> Statistics:
        """Records written to the devices' topics."""
        return Statistics(bridged_records=self._report.num_records)

    async def _with_devices(self) -> Topology:
        """Wait for a topology with an MQTT device of this edge."""
        topology = self._in_use.topology
        while not topology.mqtt_devices_of(self._edge):
            topology = await self._in_use.other_than(topology)
        return topology

    async def _serve(self, topology: Topology, device: Device, broker: MqttBroker, letters: DeadLetters) -> None:
        client_id = topics.bridge_client_id(topology.site, device.name)
        filters = topics.of_device(topology.site, device.name)
        async with (
            broker.session(client_id, filters, part=f"device/{device.name}") as session,
            asyncio.TaskGroup() as group,
        ):
            bridge = DeviceBridge(self._log, topology, device, session, dead_letters=letters, report=self._report)
            self._bridges[device.name] = bridge
            self._way_back.serve(topology, device, session, group)
            group.create_task(bridge.receipts.run(), name=f"receipts {device.name}")
            await bridge.run()

    async def _end(self) -> None:
        """End what serves the devices, before the group does."""
        for name, task in self._serving.items():
            if name in self._bridges:
                self._bridges[name].end(task)
            else:
                task.cancel()
        await asyncio.wait(self._serving.values(), timeout=END_S)

    async def _report_regularly(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._timing.report_s)
                self._report.write()
        finally:
            self._report.write()


def client() -> "type[PahoBroker]":
    """The adapter. Raises ModuleNotFoundError where the extra is not installed, with which a command ends with 78."""
    from edged.adapters.mqtt import PahoBroker  # noqa: PLC0415 - an extra, and seldom needed

    return PahoBroker


def _broker(topology: Topology, health: Health) -> "PahoBroker":
    assert topology.mqtt is not None
    return client()(topology.mqtt, health)
