"""`edged topics`: the topics that a topology needs, and the access that each node needs to them; Mosquitto's settings.

Prints commands for Kafka's own tools and Mosquitto's, or creates Kafka's topics itself with `--apply`. ACLs are printed
only: who may grant rights is not the topology's business. So are commands for topics that exist with settings that lose
data.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator

from edged import topology_file
from edged.cli.arguments import add_topology
from edged.cli.problems import show
from edged.cli.prompt_log import prompt_log
from edged.domain.counted import counted
from edged.domain.mqtt import mosquitto
from edged.domain.topology import Topology, existing, kafka_commands
from edged.domain.topology.existing import Harm
from edged.domain.topology.topics import groups, nodes, rights_of, topics
from edged.errors import LogForbidden
from edged.ports import TopicSpec

SUMMARY = "print the topics, ACLs and broker settings that the topology needs, or create the topics"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_topology(parser)
    parser.add_argument("--apply", action="store_true", help="create the topics that are missing")


def run(args: argparse.Namespace) -> int:
    """Print the list, or create the topics. Raises LogRefused, LogUnavailable."""
    topology, warnings, _ = topology_file.inspect(
        args.topology, lenient=not args.apply, node="" if args.apply else None
    )
    if args.apply:
        from edged.log import output  # noqa: PLC0415 - only this part of the command logs

        output.configure(node="topics", tier="operator", run_id="topics", level="error")
        missing, harms = asyncio.run(_apply(topology))
        if missing:
            user = topology.kafka.security.username
            raise LogForbidden(
                f"{f'User:{user} has ' if user else ''}no right to create {', '.join(missing)}, or to see that they are"
                " there; who may create topics can run this command, or those that `edged topics` prints"
            )
        for harm in harms:
            command = existing.command(topology, harm)
            print(f"warning: {harm.topic} has {harm.setting} {harm.value}: {harm.effect}\n  {command}", file=sys.stderr)
        print(f"{counted(len(topics(topology)), 'topic')} are there")
        return 0
    print("\n".join(commands(topology)))
    sys.stdout.flush()
    show(warnings, sys.stderr, kind="warning")
    return 0


def commands(topology: Topology) -> Iterator[str]:
    """The lines of commands, by subject, that make the topics, grant each node's rights and set Mosquitto up."""
    bootstrap = topology.kafka.bootstrap
    yield "# topics"
    for topic in topics(topology):
        yield kafka_commands.create(bootstrap, topic.name, topic.partitions, TopicSpec(*topic).settings)
    yield from ("", "# access: each node's principal is its name")
    for node in nodes(topology):
        for name, operations in rights_of(topology, node).topics.items():
            yield kafka_commands.allow(bootstrap, node, operations, "topic", name)
    yield from (
        "",
        "# consumer groups: where readers commit their positions, and by which archive nodes share their work",
    )
    for node, group in groups(topology):
        yield kafka_commands.allow(bootstrap, node, ["Read"], "group", group)
    if of_mqtt := list(mosquitto.commands(topology)):
        yield from ("", *of_mqtt)


async def _apply(topology: Topology) -> tuple[list[str], list[Harm]]:
    """Create the topics; those that may not be created, and what existing ones would do to samples."""
    wanted = topics(topology)
    async with prompt_log(topology.kafka) as kafka:
        missing = await kafka.answer(kafka.log.ensure([TopicSpec(*topic) for topic in wanted]))
        settings = await kafka.answer(kafka.log.settings([topic.name for topic in wanted], existing.SETTINGS))
        shared = [topology.requests_topic] if topology.has_several_archive_nodes else []
        there = await kafka.answer(kafka.log.partitions(topic for topic in shared if topic not in missing))
    few = (existing.too_few_partitions(topology, topic, there.get(topic.name, 0)) for topic in wanted)
    harms = [harm for topic in wanted for harm in existing.harms(topology, topic, settings.get(topic.name, {}))]
    return missing, [*harms, *filter(None, few)]
