"""A topic that is missing makes the node degraded, with what to do, until it is there."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.app import topics
from edged.domain.topology import Archive, Device
from edged.domain.topology.topics import prediction_topics, topics_of
from edged.ports import Message, TopicSpec
from edged.settings import TopologyInUse
from tests.support.valid_topology import VALID

NODE = "pi-a"
DEVICE = VALID.devices_of(NODE)[0]
TOPIC = VALID.device_topic(DEVICE.name)


@contextlib.asynccontextmanager
async def looked_after(log, health, in_use=None):
    looking = topics.report_missing(in_use or TopologyInUse(VALID), NODE, log, health, 30.0)
    task = asyncio.get_running_loop().create_task(looking)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def log_without(*absent):
    log = MemoryLog()
    await log.ensure([TopicSpec(*each) for each in topics_of(VALID, NODE) if each.name not in absent])
    return log


@pytest.mark.looptime
async def test_a_devices_missing_topic_degrades_the_node_with_its_name_and_what_to_do_until_it_is_there():
    log, health = await log_without(TOPIC), RecordingHealth()
    async with looked_after(log, health):
        await asyncio.sleep(45)
        assert health.reasons == {}, "another node, or an administrator, may be making it"
        await asyncio.sleep(30)
        assert list(health.reasons) == [f"device/{DEVICE.name}"]
        reason = health.reasons[f"device/{DEVICE.name}"]
        assert reason.startswith(
            f"topic {TOPIC} of the device {DEVICE.name} does not exist: `edged topics --apply` makes"
        )
        assert f"--create --if-not-exists --topic {TOPIC} --partitions 1" in reason
        await log.append([Message(TOPIC, b"1")])
        await asyncio.sleep(30)
        assert health.reasons == {}


@pytest.mark.looptime
async def test_any_other_topic_of_the_node_is_missed_too_but_not_that_of_its_presence():
    [missing] = prediction_topics(VALID, NODE)
    log, health = await log_without(missing, VALID.presence_topic(NODE)), RecordingHealth()
    async with looked_after(log, health):
        await asyncio.sleep(75)
        assert list(health.reasons) == [f"topic/{missing}"]


@pytest.mark.looptime
async def test_the_topic_of_a_device_that_a_reload_brings_is_missed_too():
    log, health, in_use = await log_without(), RecordingHealth(), TopologyInUse(VALID)
    async with looked_after(log, health, in_use):
        await asyncio.sleep(75)
        new = Device("cam-new", NODE, DEVICE.stream)
        in_use.replace(replace(VALID, iot=(*VALID.iot, new)))
        await asyncio.sleep(75)
        assert list(health.reasons) == ["device/cam-new"]


@pytest.mark.looptime
async def test_a_requests_topic_with_too_few_partitions_for_the_archive_nodes_is_told_once(log_lines):
    site = replace(VALID, archive=tuple(Archive(name, "file:///srv/edged") for name in ("north", "south")))
    log, own = MemoryLog(), topics_of(site, "north")
    await log.ensure([TopicSpec(site.requests_topic)])
    await topics.ensure(own, log)
    task = asyncio.create_task(topics.look_after(TopologyInUse(site), "north", log, site, own))

    await asyncio.sleep(60)

    [line] = log_lines("kafka.topic_setting")
    assert (line["topic"], line["setting"], line["value"], line["wanted"]) == (
        site.requests_topic,
        "partitions",
        "1",
        "2",
    )
    assert line["command"].endswith(f"--alter --topic {site.requests_topic} --partitions 2")
    task.cancel()
    await asyncio.wait([task])
