"""What the demo does, in order: broker, archive, import, edges, companions, devices, the end.

Everything runs as real processes from one topology file, in one folder.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from edged.adapters.embedded.brokers import EmbeddedBroker, LocalMosquitto
from edged.adapters.embedded.stores import LocalHdfs, LocalS3
from edged.cli.demo import report, summary, topology_text
from edged.cli.demo.observer import observe
from edged.cli.demo.outage import Outage, cause_outage
from edged.cli.demo.processes import ChildDied
from edged.cli.demo.receivers import Receivers
from edged.cli.demo.site import Options, Site, file_of
from edged.cli.topics import commands as topic_commands
from edged.domain.mqtt import mosquitto
from edged.domain.topology import Mqtt, Topology, kafka_commands
from edged.domain.topology.topics import topics
from edged.services.node.health import HealthBoard
from edged.topology_file import load

_STORES: Mapping[str, Callable[[Path], LocalS3 | LocalHdfs]] = {"s3": LocalS3, "hdfs": LocalHdfs}

_OBSERVER = "demo"
"""Whose rights this process needs, where the nodes are told apart."""


async def run(options: Options) -> report.Summary:
    """Run the demo; its figures. Raises ChildDied when a process fails, and LogUnavailable when no broker answers.

    Cancellation stops all processes first.
    """
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        bootstrap = options.broker or (await stack.enter_async_context(EmbeddedBroker())).bootstrap
        mqtt = (await stack.enter_async_context(_mosquitto(options))).address if options.mqtt else ""
        archive = await _archive(options, stack)
        topology = _write_topology(options, bootstrap, mqtt, archive)
        observer = await stack.enter_async_context(observe(topology))
        await observer.reach()
        if options.broker is not None:
            stack.push_async_callback(observer.delete_topics)
        site = Site(options, topology)
        site.display.show(file_of(options))
        outage: Outage | None = None
        receivers = Receivers(topology) if options.mqtt else None
        async with _guarded(site) as tasks, _receiving(topology, receivers, tasks):
            await site.import_images()
            await site.start_nodes()
            dying = tasks.create_task(cause_outage(site, observer.log, options.kill)) if options.kill else None
            await site.publish()
            outage = await dying if dying is not None else None
            await site.wait_until_trained()
            predictions = [
                each
                for edge in topology.edges
                for each in await observer.predictions(edge.name, published=2 * options.live)
            ]
            if receivers is not None:
                await receivers.until_all_of(each.identity for each in predictions)
            await site.wait_until_archived(await observer.num_dead_letters(site.edges))
        return await summary.summary(site, observer, predictions, receivers, outage, time.monotonic() - began)


def commands(options: Options) -> Iterator[str]:
    """The commands that make the demo's topics at its broker, and grant its nodes' rights and its own."""
    mqtt = "127.0.0.1:1883" if options.mqtt else ""
    topology = _write_topology(options, options.broker or "127.0.0.1:9092", mqtt, _local_archive(options))
    yield from topic_commands(topology)
    yield from ("", f"# the demo itself, as {_OBSERVER}: reads what it reports, and deletes the topics at its end")
    for topic in topics(topology):
        yield kafka_commands.allow(topology.kafka.bootstrap, _OBSERVER, ["Read", "Delete"], "topic", topic.name)


def _write_topology(options: Options, bootstrap: str, mqtt: str, archive: Mapping[str, str]) -> Topology:
    dataset = options.images.dataset
    plan = topology_text.Plan(
        site=options.site,
        bootstrap=bootstrap,
        archive=archive,
        stream=topology_text.stream_name(dataset.name),
        shape=dataset.shape or topology_text.IMAGE_SHAPE,
        labels=dataset.labels,
        num_training=options.images.num_training,
        edges=options.edges,
        epochs=options.epochs,
        images=dataset.shape is None,
        security=options.security,
        mqtt=mqtt,
    )
    file_of(options).write_text(topology_text.text(plan), encoding="utf-8")
    return load(file_of(options), {**os.environ, "NODE": _OBSERVER})


def _local_archive(options: Options) -> Mapping[str, str]:
    return {"url": f'"{(options.folder / "archive").as_uri()}"'}


async def _archive(options: Options, stack: AsyncExitStack) -> Mapping[str, str]:
    """The keys of the archive's place; its server runs until the stack's end. Raises ServerUnavailable."""
    if options.archive == "file":
        return _local_archive(options)
    store = _STORES[options.archive](options.folder / options.archive)
    await stack.enter_async_context(store)
    os.environ.update(store.environment)  # which the nodes get from this process
    return store.keys


def _mosquitto(options: Options) -> LocalMosquitto:
    """With what `edged topics` prints for a site without users."""
    return LocalMosquitto(options.folder / "mosquitto", lambda address: mosquitto.settings(Mqtt(address)))


@asynccontextmanager
async def _receiving(topology: Topology, receivers: Receivers | None, tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
    """Inside, the devices receive their predictions."""
    if receivers is None or topology.mqtt is None:
        yield
        return
    from edged.adapters.mqtt import PahoBroker  # noqa: PLC0415 - an extra

    async with PahoBroker(topology.mqtt, HealthBoard()) as broker:
        receiving = [tasks.create_task(receivers.receive(broker, device.name)) for device in topology.iot]
        try:
            yield
        finally:
            for each in receiving:
                each.cancel()


@asynccontextmanager
async def _guarded(site: Site) -> AsyncIterator[asyncio.TaskGroup]:
    """Ends the run when a child dies unasked, and stops all children at its end."""
    try:
        async with asyncio.TaskGroup() as tasks:
            guard = tasks.create_task(site.watch(), name="guard")
            yield tasks
            guard.cancel()
    except* ChildDied as failures:
        raise failures.exceptions[0] from None
    finally:
        site.display.close()
        await site.stop()
