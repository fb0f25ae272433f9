"""`edged demo`: all three tiers on this machine, real images, an embedded broker."""

import argparse
import asyncio
import contextlib
import math
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edged import log
from edged.errors import FormatError, StorageError

SUMMARY = "all three tiers on this machine: real images, real processes, an embedded broker"


_USAGE = 64
_MOST_EDGES = 8
"""Each is two processes with a model: more would show the machine's end, not edged."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--epochs", type=_from_one, default=8, metavar="N", help="epochs to train (8)")
    parser.add_argument("--edges", type=_edges, default=1, metavar="N", help="edges, each with two devices (1)")
    parser.add_argument(
        "--data",
        default="fashion-mnist-small",
        metavar="DIR",
        help="IDX files, a folder per class, or the name of a data set (fashion-mnist-small, which is packaged)",
    )
    parser.add_argument("--live", type=_from_one, default=300, metavar="N", help="images a device publishes (300)")
    parser.add_argument("--rate", type=_rate, default=30.0, metavar="R", help="images a device publishes a second (30)")
    parser.add_argument("--broker", metavar="HOST:PORT", help="a running Kafka, instead of the embedded broker")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the archive, the checkpoints and the logs there")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object, the last line of stdout")
    parser.epilog = (
        "The embedded broker keeps every topic in memory until it stops: right for some epochs, not for a site. "
        "Apache Kafka carries a real one."
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when every live sample was archived and predicted exactly once, else 1.

    64 when it cannot be shown with such data or such a folder.
    """
    from edged.cli.demo import report, story  # noqa: PLC0415 - heavy, and only this command needs it
    from edged.cli.demo.children import ChildDied  # noqa: PLC0415
    from edged.cli.demo.material import open_material  # noqa: PLC0415

    log.configure(node="demo", tier="demo", run_id=secrets.token_hex(4), level="error")
    try:
        material = open_material(args.data, num_live=2 * args.edges * args.live)
    except (FormatError, StorageError) as error:
        return _refuse(str(error))
    if args.keep is not None and args.keep.exists() and any(args.keep.iterdir()):
        return _refuse(f"{args.keep} is not empty: what another run left there would be taken for this one's")
    with _folder(args.keep) as folder:
        options = story.Options(folder, material, args.epochs, args.edges, args.live, args.rate, args.broker)
        try:
            summary = asyncio.run(story.tell(options))
        except ChildDied as error:
            print(error, file=sys.stderr)
            return 1
    print(report.as_text(summary))
    if args.keep:
        print(f"\nEverything is kept in {args.keep}.")
    if args.json:
        print(report.as_json(summary))
    return 0 if summary.whole else 1


def _refuse(reason: str) -> int:
    print(f"edged demo: {reason}", file=sys.stderr)
    return _USAGE


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="edged-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _from_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _edges(text: str) -> int:
    number = _from_one(text)
    if number > _MOST_EDGES:
        raise argparse.ArgumentTypeError(f"{text} is above {_MOST_EDGES}")
    return number


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a rate: samples per second above 0")
    return rate
