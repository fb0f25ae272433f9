"""The way back of predictions to an edge's MQTT devices: what runs for each job, and for each device."""

import asyncio
from typing import NamedTuple

from edged.domain.topology import Device, Topology, Training
from edged.ports import Health, Log, MqttSession, Progress
from edged.services.mqtt.catch_up import CatchUp
from edged.services.mqtt.deliverer import Deliverer
from edged.services.mqtt.outboxes import Outboxes
from edged.services.mqtt.report import DeliveryReport
from edged.services.mqtt.sender import Sender
from edged.settings import Timing


class _OfJob(NamedTuple):
    job: Training
    outboxes: Outboxes
    report: DeliveryReport
    deliverer: Deliverer
    catch_up: CatchUp


class WayBack:
    """All of one edge. Its tasks are in the caller's task group."""

    def __init__(self, log: Log, edge: str, health: Health, timing: Timing) -> None:
        self._log = log
        self._edge = edge
        self._health = health
        self._timing = timing
        self._jobs: dict[str, _OfJob] = {}

    def start(self, topology: Topology, tasks: asyncio.TaskGroup) -> None:
        """Read the predictions of each job with receivers. To be called before `serve` of their devices."""
        for job in topology.jobs:
            if job.name not in self._jobs and topology.receivers_of(self._edge, job):
                self._jobs[job.name] = started = self._of_job(topology, job)
                tasks.create_task(started.deliverer.run(), name=f"predictions {job.name}")
                tasks.create_task(started.deliverer.commit(), name=f"places of predictions {job.name}")
                tasks.create_task(started.catch_up.run(), name=f"predictions again {job.name}")

    def serve(self, topology: Topology, device: Device, session: MqttSession, tasks: asyncio.TaskGroup) -> None:
        """Send the device its predictions."""
        for each in self._jobs.values():
            if each.job.stream == device.stream:
                outbox = each.outboxes.of_device(device.name)
                sender = Sender(outbox, session, topology.site, health=self._health, report=each.report)
                tasks.create_task(sender.run(), name=f"predictions to {device.name}")

    def progress(self) -> Progress:
        """Steps are reads, of all jobs."""
        services = [service for each in self._jobs.values() for service in (each.deliverer, each.catch_up)]
        found = [service.progress() for service in services]
        return Progress(sum(each.steps for each in found), all(each.idle for each in found))

    def _of_job(self, topology: Topology, job: Training) -> _OfJob:
        outboxes, report = Outboxes(), DeliveryReport(self._timing.report_s)
        deliverer = Deliverer(self._log, topology, self._edge, job, outboxes, report=report, timing=self._timing)
        return _OfJob(
            job, outboxes, report, deliverer, CatchUp(self._log, deliverer.partition, outboxes, report=report)
        )
