"""The whole file, and its JSON Schema."""

from typing import Any

from edged.domain.topology import MAX_JOBS, LogSettings, Topology, Training
from edged.topology_file.kinds.kind import Schema
from edged.topology_file.kinds.lists import Listing, OneOrMore
from edged.topology_file.kinds.scalars import NAME, Whole
from edged.topology_file.kinds.sections import Key, Named, Section
from edged.topology_file.schema.nodes import ARCHIVE, DEVICE, EDGE, KAFKA, LOG, MQTT, STREAM
from edged.topology_file.schema.training import TRAINING

SCHEMA = 1
"""The version of the file's format."""


def _topology(*, schema: int, training: tuple[Training, ...], **sections: Any) -> Topology:
    del schema  # read for its check alone
    return Topology(jobs=training, **sections)


FILE = Section(
    _topology,
    "The topology of edged: the three tiers, their streams and the training jobs.",
    {
        "schema": Key(Whole(SCHEMA, SCHEMA), f"version of the file's format: {SCHEMA}"),
        "site": Key(NAME, "prefix of every topic"),
        "kafka": Key(KAFKA, "where Apache Kafka is"),
        "mqtt": Key(MQTT, "where the MQTT broker is, for devices with transport: mqtt"),
        "streams": Key(Named(STREAM, "stream"), "what the devices publish, by name"),
        "iot": Key(Listing(DEVICE), "tier 1: the devices, each with exactly one edge"),
        "edges": Key(Listing(EDGE, 1), "tier 2: the edges"),
        "archive": Key(Listing(ARCHIVE), "tier 3: the archive, one node"),
        "log": Key(LOG, "what the nodes log"),
        "training": Key(
            OneOrMore(TRAINING, MAX_JOBS),
            "what to train: a job or a list of them; without it the site only collects",
        ),
    },
    {"mqtt": None, "log": LogSettings(), "training": ()},
)


def json_schema() -> Schema:
    """The JSON Schema (2020-12) of the topology file, for editors.

    It knows the form of each section; what holds between sections only `edged check` knows.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edged topology",
        **FILE.schema(),
    }
