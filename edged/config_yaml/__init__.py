"""The topology file: YAML to a valid Topology, or every problem with its place.

- `document`: bytes to guarded YAML nodes. `syntax`: what is wrong with text that is no YAML.
- `variables`: ${VAR} and ${cred:NAME}.
- `reading`: what was found wrong so far, and where. `kinds`: the kinds of values. `description`: the file itself.

Rules between sections are the domain's (`domain.topology_rules`); this package finds their places in the file.

Secrets: a password may stand in the file, since a test set-up may need no better, but it is a warning; whether it
stands there, in a variable or in a credential, no message and no quoted line ever shows it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edged.config_yaml import document, kinds
from edged.config_yaml.description import FILE, SCHEMA, json_schema
from edged.config_yaml.reading import Reading, hide_secrets
from edged.config_yaml.variables import Variables
from edged.domain import topology_rules
from edged.domain.finding import Finding
from edged.domain.topology import Topology
from edged.errors import ConfigError, Problem

__all__ = ["SCHEMA", "Inspection", "inspect", "json_schema", "load"]


class Inspection(NamedTuple):
    """A valid topology, and what is probably not meant in it."""

    topology: Topology
    warnings: tuple[Problem, ...]


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Topology:
    """The topology in the file at `path`. Raises ConfigError with all its problems at once."""
    return inspect(path, environment).topology


def inspect(path: Path, environment: Mapping[str, str] = os.environ, *, lenient: bool = False) -> Inspection:
    """Like `load`, with the warnings.

    `lenient`: look at the file away from its nodes. Names and addresses of theirs (site, kafka, the archive's url) may
    come from variables and credentials that are missing here: a warning each, and the "${…}" stands for the value.
    """
    parsed = document.parse(_content(path), str(path))
    assert parsed.root is not None
    hide_secrets(parsed, parsed.root)
    reading = Reading(parsed, Variables(environment), lenient=lenient)
    reading.problems += [(mark, Finding("", message, hint)) for mark, message, hint in parsed.refused]
    topology: Topology = kinds.read(FILE, parsed.root, "", reading)
    new = [finding for finding in topology_rules.problems(topology) if reading.says_something_new(finding)]
    problems = [*reading.problems, *((reading.mark_of(finding.path), finding) for finding in new)]
    if problems:
        raise ConfigError(reading.told(problems))
    doubts = [
        (reading.mark_of(finding.path), finding)
        for finding in topology_rules.warnings(topology)
        if reading.says_something_new(finding)
    ]
    return Inspection(topology, reading.told([*reading.warnings, *doubts]))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(document.MOST_BYTES + 1)
    except OSError as error:
        problem = Problem("", f"the file cannot be read: {error.strerror}", place=str(path))
        raise ConfigError((problem,)) from error
