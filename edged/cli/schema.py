"""`edged schema`: the formats of the topology file and of the log, for editors and log tools."""

import argparse
import json

SUMMARY = "print the JSON Schema of the topology file, or of the log's lines"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--events", action="store_true", help="the log's lines instead of the topology file")


def run(args: argparse.Namespace) -> int:
    """Print the schema as JSON."""
    print(json.dumps(_events() if args.events else _topology(), indent=2, ensure_ascii=False))
    return 0


def _topology() -> dict[str, object]:
    from edged.topology_file import json_schema  # noqa: PLC0415 - only when asked for

    return json_schema()


def _events() -> dict[str, object]:
    from edged.events import json_schema  # noqa: PLC0415

    return json_schema()
