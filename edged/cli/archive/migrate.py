"""`edged archive migrate`: not before all that the edges sent in the format before is archived.

See also: `adapters.parquet.migrate`, which writes the files.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing

from edged.cli.archive.data_set import Bar
from edged.cli.prompt_log import prompt_log
from edged.domain.counted import counted
from edged.domain.samples import pack as packs
from edged.domain.topology import Topology
from edged.errors import AnotherVersion, FormatError
from edged.ports import Log, TopicPartition
from edged.reading import read_to_end

_MAX_RECORDS = 16


def run(topology: Topology, *, as_json: bool) -> int:
    """Migrate the archive, or say what has to be archived before. Raises StorageError, LogUnavailable, LogRefused."""
    from edged.adapters.parquet.migrate import migrate, next_offsets  # noqa: PLC0415 - pyarrow is slow to import
    from edged.app.objects import command_store  # noqa: PLC0415

    objects = command_store(topology)
    if (next_by_source := next_offsets(objects)) is not None:
        waiting = asyncio.run(_waiting(topology, next_by_source))
        for partition, offset in waiting:
            print(
                f"edged archive: {partition.topic} has packs of the version before, from offset {offset} on: archive "
                "them with that version before you migrate",
                file=sys.stderr,
            )
        if waiting:
            return os.EX_CONFIG
    with Bar(None, "migrating", "files") as on_progress:
        migrated = list(migrate(objects, on_progress=on_progress))
    if as_json:
        print(json.dumps({"sources": [each._asdict() for each in migrated]}, indent=2))
        return 0
    for each in migrated:
        again = f", {counted(each.rewritten, 'file')} written again" if each.rewritten else ""
        print(f"{each.stream}/{each.source}: {counted(each.files, 'file')} indexed{again}")
    print(f"{objects.where} has the present format")
    return 0


async def _waiting(
    topology: Topology, next_by_source: Mapping[tuple[str, str], int]
) -> list[tuple[TopicPartition, int]]:
    """Each topic with packs of another version that are not archived, and the offset of the first."""
    next_offset = {partition: next_by_source.get(source, 0) for source, partition in _topics(topology)}
    found: list[tuple[TopicPartition, int]] = []
    async with prompt_log(topology.kafka) as kafka:
        there = await kafka.answer(kafka.log.partitions(partition.topic for partition in next_offset))
        for partition, offset in next_offset.items():
            if partition.topic in there:
                first = await kafka.answer(_first_of_another_version(kafka.log, partition, offset))
                found += [] if first is None else [(partition, first)]
    return found


def _topics(topology: Topology) -> Iterator[tuple[tuple[str, str], TopicPartition]]:
    for edge in topology.edges:
        for stream in dict.fromkeys(device.stream for device in topology.devices_of(edge.name)):
            yield (stream, edge.name), TopicPartition(topology.archive_topic(stream, edge.name))


async def _first_of_another_version(log: Log, partition: TopicPartition, offset: int) -> int | None:
    low, _stable, high = (await log.watermarks([partition]))[partition]
    start = max(low, offset) if offset <= high else low  # the topic was recreated
    async with (
        log.reader({partition: start}) as reader,
        aclosing(read_to_end(log, reader, partition, max_records=_MAX_RECORDS)) as reading,
    ):
        async for records in reading:
            for record in records:
                try:
                    packs.decode(record.value)
                except AnotherVersion:
                    return record.offset
                except FormatError:
                    continue  # no version's: it will be left out
    return None
