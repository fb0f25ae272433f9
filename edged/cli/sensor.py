"""`edged sensor`: replays a data set, a folder of images or a CSV file as one of the topology's devices."""

import argparse
import asyncio
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO, cast

from edged import topology_file
from edged.cli.arguments import (
    add_data_set_options,
    add_log_level,
    add_topology,
    rate_or_max,
    require_node,
    whole_number,
)
from edged.cli.problems import complain
from edged.domain.counted import counted
from edged.domain.topology import Topology
from edged.errors import ConfigError, FormatError, Problem, StorageError
from edged.log import logger, output

if TYPE_CHECKING:  # what reads images and Kafka is imported when it is needed
    from tqdm import tqdm

    from edged.adapters.datasets.transcode import Transcoder
    from edged.device import Device
    from edged.ports import Dataset
    from edged.services.sensor import Sensor

SUMMARY = "replay a data set, a folder of images or a CSV file as one of the devices"

_START_TIMEOUT_S = 30.0
"""How long the broker may be silent at the start; later it is waited for."""

_TIMEOUT_S = 5.0
"""How long a stop lets the batch on its way arrive; the broker may be away."""

_BROKERS = {"kafka": "Kafka", "mqtt": "the MQTT broker"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_topology(parser)
    parser.add_argument("--node", required=True, metavar="DEVICE", help="publish as this device")
    add_data_set_options(parser)
    parser.add_argument("--split", metavar="NAME", help="which part of the data set (its first: mostly train)")
    parser.add_argument("--rate", type=rate_or_max, default=50.0, metavar="R", help='samples per second, or "max" (50)')
    parser.add_argument("--count", type=whole_number(), metavar="N", help="end after N samples (all)")
    parser.add_argument(
        "--skip", type=whole_number(), default=0, metavar="N", help="leave out the first N of each pass"
    )
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    parser.add_argument("--buffer", metavar="FOLDER", help="keep samples there until they have arrived")
    parser.add_argument("--unlabelled", action="store_true", help="leave the labels out")
    parser.add_argument(
        "--shuffle", type=whole_number(), metavar="SEED", help="in a random order, another for each pass"
    )
    parser.add_argument("--download", action="store_true", help="fetch fashion-mnist first if it is not here (30 MB)")
    add_log_level(parser)


def run(args: argparse.Namespace) -> int:
    """Publish until all is published or a signal ends it; 69 when the broker does not answer at the start or end."""
    topology = topology_file.load(args.topology, node=args.node)
    _require_device(topology, args.node, str(args.topology))
    level = args.log_level or topology.log.level
    output.configure(node=args.node, tier="iot", run_id=uuid.uuid4().hex[:8], level=level, stream=_log_stream())
    try:
        dataset = _open(topology, args)
        transcoder = _transcoder(topology, dataset, args)
        split = args.split or dataset.splits[0]
        unlabelled = _num_unlabelled(topology, dataset, split, args)
    except (FormatError, StorageError) as error:
        complain("edged sensor", error)
        return os.EX_USAGE
    left_out, items = [asdict(each) for each in dataset.left_out], dataset.count(split)
    logger().info(
        "sensor.opened", dataset=dataset.name, split=split, items=items, unlabelled=unlabelled, left_out=left_out
    )
    try:
        return asyncio.run(_replay(topology, dataset, split, transcoder, args))
    except FormatError as error:
        complain("edged sensor", error)
        return os.EX_USAGE


async def _replay(
    topology: Topology, dataset: "Dataset", split: str, transcoder: "Transcoder", args: argparse.Namespace
) -> int:
    from edged.device import Device  # noqa: PLC0415
    from edged.services.sensor import Sensor  # noqa: PLC0415

    async with Device(topology, args.node, buffer=args.buffer, receive=False, gives_up=True) as device:
        with _bar(unit=" samples") as bar:
            sensor = Sensor(
                dataset,
                split,
                publish=device.publish_many,
                fit=transcoder.payload,
                rate=args.rate,
                skip=args.skip,
                limit=args.count,
                loop=args.loop,
                unlabelled=args.unlabelled,
                shuffle=args.shuffle,
                on_published=bar.update,
            )
            bar.total = sensor.total
            return await _until_signal(sensor, device, _BROKERS[topology.device(args.node).transport])


async def _until_signal(sensor: "Sensor", device: "Device", broker: str) -> int:
    """Run the sensor once the broker answers, and until its buffer is empty if it has one.

    The first signal lets what is on its way arrive, for a few seconds; then it is given up.
    """
    loop, task, stop = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None

    def end() -> None:
        if not stop.is_set():
            stop.set()
            loop.call_later(_TIMEOUT_S, task.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            await device.connected()
        await sensor.run(stop)
        await device.flush()
    except TimeoutError:
        complain("edged sensor", f"{_trouble(device, broker)}; nothing was published")
        return os.EX_UNAVAILABLE
    except asyncio.CancelledError:
        task.uncancel()
        left = device.backlog.samples
        done = f"{counted(sensor.published, 'sample')} acknowledged" if not left else f"{left} are left in the buffer"
        complain("edged sensor", f"{_trouble(device, broker)}; {done}")
        return os.EX_UNAVAILABLE
    return 0


def _trouble(device: "Device", broker: str) -> str:
    return f"nothing gets through to {broker}: {device.trouble}" if device.trouble else f"{broker} does not answer"


def _require_device(topology: Topology, node: str, file: str) -> None:
    require_node(topology, node, file)
    if topology.tier_of(node) != "iot":
        known = ", ".join(device.name for device in topology.iot)
        raise ConfigError((Problem("", f'"{node}" is no device', f"devices: {known}", file),))


def _transcoder(topology: Topology, dataset: "Dataset", args: argparse.Namespace) -> "Transcoder":
    """What makes the data set's items the device's samples. Raises FormatError when that cannot be."""
    from edged.adapters.datasets.transcode import Transcoder  # noqa: PLC0415
    from edged.adapters.images import PillowDecoder  # noqa: PLC0415 - see the package

    if args.split and args.split not in dataset.splits:
        raise FormatError(f"{dataset.name} has no split {args.split!r}; it has {', '.join(dataset.splits)}")
    spec = topology.device(args.node)
    stream = topology.stream(spec.stream)
    return Transcoder(dataset, spec, stream, PillowDecoder())


def _num_unlabelled(topology: Topology, dataset: "Dataset", split: str, args: argparse.Namespace) -> int:
    """The number of the split's items that go without a label. Raises FormatError for labels that may not go."""
    from edged.adapters.datasets.labels import check_labels, count_labels  # noqa: PLC0415

    count = dataset.count(split)
    if args.unlabelled:
        return count
    counts = count_labels(dataset, ((split, index) for index in range(count)))
    stream = topology.stream(topology.device(args.node).stream)
    check_labels(dataset, stream, counts, otherwise=", or leave labels out with --unlabelled")
    return counts.unlabelled


def _open(topology: Topology, args: argparse.Namespace) -> "Dataset":
    from edged.adapters.datasets.fashion_mnist import cache_folder, download_fashion_mnist, full_folder  # noqa: PLC0415
    from edged.adapters.datasets.registry import open_dataset  # noqa: PLC0415

    if args.download and args.spec == "fashion-mnist" and full_folder() is None:
        with _bar(unit="B", unit_scale=True, desc="fashion-mnist") as bar:
            download_fashion_mnist(cache_folder(), progress=bar.update)
    with _bar(unit=" files", desc="listing", leave=False) as bar:
        return open_dataset(
            args.spec,
            header=args.header,
            labels=topology.stream(topology.device(args.node).stream).labels,
            follow_links=args.follow_links,
            on_listed=bar.update,
        )


@contextmanager
def _bar(**settings: Any) -> "Iterator[tqdm[Any]]":
    """A progress bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm(disable=None, **settings) as bar:
        yield bar


class _AboveBar:
    """The terminal for log lines: each goes above the progress bar, which is drawn again below it."""

    def write(self, text: str) -> None:
        from tqdm import tqdm  # noqa: PLC0415

        tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return True


def _log_stream() -> TextIO:
    return cast("TextIO", _AboveBar()) if sys.stderr.isatty() else sys.stderr
