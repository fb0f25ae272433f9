"""`edged demo`: all three tiers on this machine, real images, an embedded broker."""

import argparse
import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

from edged.access import exposure, why_refused
from edged.cli.arguments import add_follow_links, address, rate, whole_number
from edged.cli.problems import complain
from edged.errors import EdgedError, FormatError, StorageError
from edged.files import read_regular
from edged.log import output

SUMMARY = "all three tiers on this machine: real images, real processes, an embedded broker"

_ANY = "auto"
_MAX_EDGES = 26
"""They are called pi-a to pi-z."""

_MAX_EPOCHS = 1000
_MAX_SECURITY_BYTES = 1 << 16


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--epochs", type=whole_number(1, _MAX_EPOCHS), default=8, metavar="N", help="epochs to train (8)"
    )
    parser.add_argument(
        "--edges",
        type=whole_number(1, _MAX_EDGES),
        default=1,
        metavar="N",
        help="edges, each with two devices; several train one model (1)",
    )
    parser.add_argument(
        "--kill",
        default="",
        metavar="EDGE",
        help="kill this edge in mid-epoch and start it again: pi-b for instance, or auto",
    )
    parser.add_argument(
        "--data",
        default="fashion-mnist-small",
        metavar="DIR",
        help="IDX files, a folder per class, or the name of a data set (fashion-mnist-small, which is packaged)",
    )
    add_follow_links(parser)
    parser.add_argument("--live", type=whole_number(), default=300, metavar="N", help="images a device publishes (300)")
    parser.add_argument("--rate", type=rate, default=30.0, metavar="R", help="images a device publishes a second (30)")
    parser.add_argument(
        "--broker", type=address, metavar="HOST:PORT", help="a running Kafka, instead of the embedded broker"
    )
    parser.add_argument(
        "--security",
        type=Path,
        metavar="FILE",
        help="what the key kafka.security of a topology would hold, for --broker; ${NODE} is each process's name",
    )
    parser.add_argument(
        "--mqtt",
        action="store_true",
        help="the devices speak MQTT, by a Mosquitto that is started for them, and get their predictions by it",
    )
    parser.add_argument(
        "--archive",
        choices=("file", "hdfs", "s3"),
        default="file",
        help="where the archive is: in a folder, in Apache Hadoop's HDFS, or behind the S3 gateway versitygw, which "
        "are started for it where they are installed (file)",
    )
    parser.add_argument("--site", metavar="NAME", help="prefix of the topics (a random one)")
    parser.add_argument(
        "--topics", action="store_true", help="only print the topics and ACLs that this demo needs at --broker"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the archive, the checkpoints and the logs there")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object, the last line of stdout")
    parser.epilog = (
        "The embedded broker keeps every topic in memory until it stops: right for some epochs, not for a site. Apache "
        "Kafka carries a real one. Exit codes: 1 a sample is missing, the weights of a group's edges differ, or a "
        "process failed; 64 the data or the options do not do; 69 no Kafka answers, or what the options ask for is not "
        "installed; 73 the folder cannot be written; 77 a right is missing: --topics, with the same --site, --edges "
        "and --broker, prints all that are needed. The demo deletes its topics at its end: who made them by those "
        "commands makes them again for the next one."
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when every live sample was archived and predicted once and all edges end with the same weights.

    Otherwise 1; 64 when the data or the folder do not suit, 73 when the folder cannot be written. A signal stops it
    cleanly. Raises LogUnavailable when the broker does not answer.
    """
    from edged.cli.demo import stopping  # noqa: PLC0415 - only this command needs it

    with stopping.by_signals() as stop:
        try:
            return _run(args)
        except KeyboardInterrupt:
            left = f"{args.keep} keeps what there was" if args.keep else "nothing is left behind"
            complain("edged demo", f"stopped; {left}")
            return stop.exit_code


def _run(args: argparse.Namespace) -> int:
    from edged.adapters.embedded.server import ServerUnavailable  # noqa: PLC0415
    from edged.cli.demo import report, scenario, site  # noqa: PLC0415 - heavy, and only this command needs it
    from edged.cli.demo.display import columns  # noqa: PLC0415
    from edged.cli.demo.images import open_images  # noqa: PLC0415
    from edged.cli.demo.processes import ChildDied  # noqa: PLC0415

    output.configure(node="demo", tier="demo", run_id=secrets.token_hex(4), level="error")
    try:
        kill = _to_kill(args.kill, args.edges)
        images = open_images(args.data, devices=2 * args.edges, live=args.live, follow_links=args.follow_links)
        with contextlib.ExitStack() as stack:
            folder = _folder(args.keep, stack)
            options = site.Options(
                folder, images, args.epochs, args.edges, args.live, args.rate, args.broker, kill,
                security=_read(args.security), site=args.site or f"demo-{secrets.token_hex(3)}",
                mqtt=args.mqtt, archive=args.archive,
            )  # fmt: skip
            if args.topics:
                print("\n".join(scenario.commands(options)))
                return 0
            summary = asyncio.run(scenario.run(options))
    except (FormatError, StorageError) as error:
        return _refuse(error, os.EX_USAGE)
    except _NoFolder as error:
        return _refuse(error, os.EX_CANTCREAT)
    except ServerUnavailable as error:
        return _refuse(error, os.EX_UNAVAILABLE)
    except ChildDied as error:
        print(error, file=sys.stderr)
        return 1
    print(report.as_text(summary, columns()))
    if args.keep:
        print(f"\nEverything is kept in {args.keep}.")
    if args.json:
        print(report.as_json(summary))
    return 0 if summary.is_well else 1


def _read(security: Path | None) -> str:
    """The file's text; empty without one. Raises FormatError."""
    if security is None:
        return ""
    try:
        text = read_regular(security, _MAX_SECURITY_BYTES).decode()
        seen = exposure(security)
    except OSError as error:
        raise FormatError(f"{security}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{security}: {error}") from error
    if seen is not None and seen.is_writable:
        raise FormatError(f"{seen.message}: {seen.mended}")
    if seen is not None:
        print(f"warning: {seen.message}: {seen.mended}", file=sys.stderr)
    return text


def _to_kill(kill: str, num_edges: int) -> str:
    """The edge to kill; empty for none. Raises FormatError when there is none of that name, or no other edge."""
    from edged.cli.demo.topology_text import edge_names  # noqa: PLC0415

    names = edge_names(num_edges)
    if not kill:
        return ""
    if num_edges == 1:
        raise FormatError("--kill needs other edges that train meanwhile: --edges 2 or more")
    if kill not in {_ANY, *names}:
        raise FormatError(f'no edge is called "{kill}"; there are {", ".join(names)}, or {_ANY}')
    return names[-1] if kill == _ANY else kill


def _refuse(error: Exception, code: int) -> int:
    complain("edged demo", error)
    return code


class _NoFolder(EdgedError):  # noqa: N818 - as the other errors that name a state
    """There is no folder to write to."""


def _folder(keep: Path | None, stack: contextlib.ExitStack) -> Path:
    """Where the run's files go: `keep`, or a folder that is removed at the stack's end.

    Raises StorageError when `keep` is not empty, and _NoFolder.
    """
    try:
        if keep is None:
            made = tempfile.TemporaryDirectory(prefix="edged-demo-", ignore_cleanup_errors=True)
            return Path(stack.enter_context(made)).resolve()
        keep.mkdir(parents=True, exist_ok=True)
        in_use = any(keep.iterdir())
    except OSError as error:
        folder = keep or Path(tempfile.gettempdir())
        raise _NoFolder(f"{folder}: {why_refused(folder, error)}") from error
    if in_use:
        raise StorageError(f"{keep} is not empty: what another run left there would be taken for this one's")
    if not os.access(keep, os.W_OK | os.X_OK):
        raise _NoFolder(f"{keep}: not writable")
    return keep.resolve()
