"""The topology file: YAML to a valid Topology, or every problem with its place.

- `document`: bytes to guarded YAML nodes. `syntax`: explains text that is not YAML.
- `variables`: ${VAR} and ${cred:NAME}.
- `reading`: the problems so far, and their places. `kinds`: the kinds of values. `schema`: the file itself.

See also: `domain.validation`, the rules between sections; this package finds the places of their findings in the file.

Secrets: a password in the file, which may do for a test set-up, is a warning. Whether it is there, in a variable or in
a credential, no message and no quoted line ever shows it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from edged.access import why_refused
from edged.domain.topology import BackboneFile, Security, Tls, Topology
from edged.domain.validation import rules
from edged.domain.validation.finding import Finding
from edged.errors import ConfigError, EdgedError, Problem
from edged.files import open_regular
from edged.topology_file import document
from edged.topology_file.kinds.kind import read
from edged.topology_file.reading import NODE_SPECIFIC, OF_KAFKA, Reading, hide_secrets, public_words
from edged.topology_file.schema.file import FILE, SCHEMA, json_schema
from edged.topology_file.variables import Variables

__all__ = ["SCHEMA", "Inspection", "inspect", "json_schema", "load"]


class Inspection(NamedTuple):
    """A valid topology, and warnings: what is probably not intended.

    `credentials`: the names of those that it refers to, each with the path of the first value that does; of several
    the first that every node needs, see `domain.systemd.setup`.
    """

    topology: Topology
    warnings: tuple[Problem, ...]
    credentials: Mapping[str, str]


LookUp = Callable[[Path], BackboneFile]
"""Reads the shapes and the digest of a backbone's file; raises EdgedError."""


CheckTls = Callable[[Security | Tls, str], tuple[list[Finding], list[Finding]]]
"""What is wrong with the certificate files that the value at the path names, and of what to warn."""


def load(
    path: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    needs_kafka: bool = True,
    node: str = "",
    look_up_backbone: LookUp | None = None,
) -> Topology:
    """The topology in the file at `path`. Raises ConfigError with all its problems at once.

    Without `needs_kafka` the variables and credentials of section `kafka` may be missing. Those of section `mqtt`, and
    of the archive's store, may in any case, but where `node` speaks MQTT, or is the archive, and reads the file to run.
    A backbone's path is relative to the topology file's folder. Its file is read, and the model on top of it checked,
    only with `look_up_backbone`: not every node has it.
    """
    may_miss = None if needs_kafka else OF_KAFKA
    return _inspect(path, environment, may_miss, look_up_backbone, node=node).topology


def inspect(
    path: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    lenient: bool = False,
    node: str | None = None,
    look_up_backbone: LookUp | None = None,
    check_tls: CheckTls | None = None,
) -> Inspection:
    """Like `load`, with the warnings.

    `lenient`: the file is read on another machine than its nodes. Their names and addresses (site, kafka, the archive's
    url) may come from variables and credentials that are missing here: each is a warning, and the "${…}" is kept.
    `node`: who reads it: only who speaks MQTT needs what section `mqtt` refers to, and only the archive node what the
    archive's store does. None: it is read for all.
    `check_tls`: judges the node's certificate files, which may be missing where it is not given.
    """
    may_miss = NODE_SPECIFIC if lenient else None
    return _inspect(path, environment, may_miss, look_up_backbone, check_tls, node=node)


def _inspect(
    path: Path,
    environment: Mapping[str, str],
    may_miss: re.Pattern[str] | None,
    look_up_backbone: LookUp | None,
    check_tls: CheckTls | None = None,
    *,
    node: str | None,
) -> Inspection:
    parsed = document.parse(_content(path), str(path))
    assert parsed.root is not None
    hide_secrets(parsed, parsed.root)
    public = _words_of_schema() | frozenset(public_words(parsed.root))
    reading = Reading(parsed, Variables(environment, public), may_miss=may_miss)
    reading.problems += [(mark, Finding("", message, hint)) for mark, message, hint in parsed.refused]
    topology: Topology = read(FILE, parsed.root, "", reading)
    topology, unread = _with_backbones(topology, path.parent, look_up_backbone)
    speaks_mqtt = node is None or topology.speaks_mqtt(node)
    if speaks_mqtt:
        reading.require("mqtt")
    if node is None or topology.tier_of(node) == "archive":
        reading.require("store")
    findings = [*unread, *rules.problems(topology)]
    of_files: list[Finding] = []
    if check_tls is not None:
        for files, at in _tls_files(topology, with_mqtt=speaks_mqtt):
            wrong, doubtful = check_tls(files, at)
            findings += wrong
            of_files += doubtful
    independent = [finding for finding in findings if reading.is_independent(finding)]
    problems = [*reading.problems, *((reading.mark_of(finding.path), finding) for finding in independent)]
    if problems:
        raise ConfigError(reading.as_problems(problems))
    warnings = [
        (reading.mark_of(finding.path), finding)
        for finding in [*rules.warnings(topology), *of_files]
        if reading.is_independent(finding)
    ]
    return Inspection(topology, reading.as_problems([*reading.warnings, *warnings]), reading.credentials)


def _tls_files(topology: Topology, *, with_mqtt: bool) -> Iterator[tuple[Security | Tls, str]]:
    """What names certificate files that are used, each with its path."""
    if topology.kafka.security.protocol.endswith("SSL"):
        yield topology.kafka.security, "kafka.security"
    if with_mqtt and topology.mqtt is not None and topology.mqtt.tls is not None:
        yield topology.mqtt.tls, "mqtt.tls"


@cache
def _words_of_schema() -> frozenset[str]:
    """Every key, and every word that a value may be."""

    def walk(schema: Any) -> Iterator[str]:
        if isinstance(schema, Mapping):
            yield from schema.get("properties", ())
            yield from (word for word in [*schema.get("enum", ()), schema.get("const")] if isinstance(word, str))
            for value in schema.values():
                yield from walk(value)
        elif isinstance(schema, list):
            for item in schema:
                yield from walk(item)

    return frozenset(walk(json_schema()))


def _with_backbones(topology: Topology, folder: Path, look_up: LookUp | None) -> tuple[Topology, list[Finding]]:
    """The topology with the backbones' full paths and their files' shapes, and the files that could not be read."""
    jobs, findings = list(topology.jobs), []
    for i, job in enumerate(jobs):
        if job.backbone is None:
            continue
        file = folder / job.backbone.model
        backbone = replace(job.backbone, model=str(file))
        if look_up is not None:
            try:
                backbone = replace(backbone, file=look_up(file))
            except EdgedError as error:
                hint = "a backbone is a .tflite file with one input and one output, both float32"
                findings.append(Finding(f"training[{i}].backbone.model", str(error), hint))
        jobs[i] = replace(job, backbone=backbone)
    return replace(topology, jobs=tuple(jobs)), findings


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(document.MAX_BYTES + 1)
    except OSError as error:
        hint = "give the file itself, such as topology.yaml" if isinstance(error, IsADirectoryError) else ""
        problem = Problem("", f"the file cannot be read: {why_refused(path, error, reads=True)}", hint, str(path))
        raise ConfigError((problem,)) from error
