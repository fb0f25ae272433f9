"""The topology file: YAML to a valid Topology, or every problem with its place.

- `document`: bytes to guarded YAML nodes. `syntax`: what is wrong with text that is no YAML.
- `variables`: ${VAR} and ${cred:NAME}.
- `reading`: what was found wrong so far, and where. `kinds`: the kinds of values. `description`: the file itself.

Rules between sections are the domain's (`domain.topology_rules`); this package finds their places in the file.

Secrets: a password may stand in the file, since a test set-up may need no better, but it is a warning; whether it
stands there, in a variable or in a credential, no message and no quoted line ever shows it.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from edged.domain.topology import BackboneFile, Topology
from edged.domain.validation import rules
from edged.domain.validation.finding import Finding
from edged.errors import ConfigError, EdgedError, Problem
from edged.topology_file import document
from edged.topology_file.kinds.kind import read
from edged.topology_file.reading import Reading, hide_secrets
from edged.topology_file.schema.file import FILE, SCHEMA, json_schema
from edged.topology_file.variables import Variables

__all__ = ["SCHEMA", "Inspection", "inspect", "json_schema", "load"]


class Inspection(NamedTuple):
    """A valid topology, and what is probably not meant in it."""

    topology: Topology
    warnings: tuple[Problem, ...]


LookUp = Callable[[Path], BackboneFile]
"""Looks into a backbone's file; raises EdgedError."""


def load(
    path: Path, environment: Mapping[str, str] = os.environ, *, look_up_backbone: LookUp | None = None
) -> Topology:
    """The topology in the file at `path`. Raises ConfigError with all its problems at once.

    A backbone's path is relative to the topology file's folder. Only with `look_up_backbone` is the file looked into,
    and the model on top of it checked: not every node has it.
    """
    return inspect(path, environment, look_up_backbone=look_up_backbone).topology


def inspect(
    path: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    lenient: bool = False,
    look_up_backbone: LookUp | None = None,
) -> Inspection:
    """Like `load`, with the warnings.

    `lenient`: look at the file away from its nodes. Names and addresses of theirs (site, kafka, the archive's url) may
    come from variables and credentials that are missing here: a warning each, and the "${…}" stands for the value.
    """
    parsed = document.parse(_content(path), str(path))
    assert parsed.root is not None
    hide_secrets(parsed, parsed.root)
    reading = Reading(parsed, Variables(environment), lenient=lenient)
    reading.problems += [(mark, Finding("", message, hint)) for mark, message, hint in parsed.refused]
    topology: Topology = read(FILE, parsed.root, "", reading)
    topology, unread = _with_backbones(topology, path.parent, look_up_backbone)
    findings = [*unread, *rules.problems(topology)]
    new = [finding for finding in findings if reading.says_something_new(finding)]
    problems = [*reading.problems, *((reading.mark_of(finding.path), finding) for finding in new)]
    if problems:
        raise ConfigError(reading.told(problems))
    doubts = [
        (reading.mark_of(finding.path), finding)
        for finding in rules.warnings(topology)
        if reading.says_something_new(finding)
    ]
    return Inspection(topology, reading.told([*reading.warnings, *doubts]))


def _with_backbones(topology: Topology, folder: Path, look_up: LookUp | None) -> tuple[Topology, list[Finding]]:
    """The topology with the backbones' whole paths, and what their files say."""
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
        with path.open("rb") as file:
            return file.read(document.MAX_BYTES + 1)
    except OSError as error:
        problem = Problem("", f"the file cannot be read: {error.strerror}", place=str(path))
        raise ConfigError((problem,)) from error
