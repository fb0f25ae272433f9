"""How long predictions take beside a busy trainer, and the least that they could take.

    python -m tests.bench.latency [--quick] [--json] [--rate 200] [--rounds 3] [--seconds 30]

Over real Kafka an edge trains all the time from what its cache holds, with the unit's niceness, and its companion
predicts what two devices publish. By turns with it a bare loop of aiokafka, without any model, answers two other
devices, of which the edge has the same work. A latency counts from the record's arrival at the broker until its answer
is handed to the producer. Beside it: what its process takes of a core, and how long its threads wait for one, by the
kernel's count. All share one control group, where one can be made: without it niceness counts within each process only.
"""

# ruff: noqa: T201 - a script prints

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np

from edged.adapters.embedded.server import killed_with_parent
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli.demo.processes import Child
from edged.domain.samples import prediction, times
from edged.domain.topology import Kafka
from edged.ports import Message, TopicPartition, TopicSpec
from tests.bench.arguments import bench_parser
from tests.bench.cpu_limit import together
from tests.bench.trainer import machine
from tests.support.brokers import Apache
from tests.support.site import DESIGNS_MODEL, FASHION, moment

PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
_EDGE_NICENESS = "5"  # the unit's
_WARM_UP_S = 3.0
_OUT = "bare.out"
_TOPOLOGY = """\
schema: 1
site: latency
kafka: {{bootstrap: ["{bootstrap}"]}}
streams:
  fashion: {{sample: {{shape: [28, 28, 1], dtype: uint8}}, labels: {labels}}}
  plain: {{sample: {{shape: [28, 28, 1], dtype: uint8}}, labels: {labels}}}
iot:
  - {{name: cam-01, edge: pi-a, stream: fashion, codec: raw}}
  - {{name: cam-02, edge: pi-a, stream: fashion, codec: raw}}
  - {{name: cam-03, edge: pi-a, stream: plain, codec: raw}}
  - {{name: cam-04, edge: pi-a, stream: plain, codec: raw}}
edges:
  - {{name: pi-a, cache: {{memory: 256MiB, disk: 0}}, prefetch: 16MiB, memory_limit: 1GiB}}
archive:
  - {{name: vault, url: "{archive}"}}
training:
  stream: fashion
  model: {model}
  source: archive
  epochs: 1000000
  global_batch: 64
  optimizer: {{sgd: {{learning_rate: 0.02, momentum: 0.9}}}}
  test_samples: 500
  checkpoint: 1min
"""
_TOPICS = {
    "companion": ("latency.iot.cam-01", "latency.iot.cam-02"),
    "bare loop": ("latency.iot.cam-03", "latency.iot.cam-04"),
}


class Turn(NamedTuple):
    """One of both had the stream from `begin` to `end` (Unix time).

    `run_s`, `wait_s`: its threads ran, and waited for a core; `trained_per_s`: samples of the edge meanwhile.
    """

    who: str
    begin: float
    end: float
    run_s: float
    wait_s: float
    trained_per_s: float = 0.0


class Site:
    """The processes. Made by `site()`."""

    def __init__(self, edge: Child, pids: dict[str, int], log: KafkaLog, bare: asyncio.subprocess.Process) -> None:
        self._edge = edge
        self._pids = pids
        self._log = log
        self._bare = bare

    async def turn(self, who: str, rate: float, seconds: float) -> Turn:
        """Publish to the devices of one of both."""
        before, begin = _scheduled_s(self._pids[who]), time.time()
        await self._publish(_TOPICS[who], rate, seconds)
        end, after = time.time(), _scheduled_s(self._pids[who])
        lines = [line for line in self._edge.seen("res.sample") if begin <= moment(line).timestamp() < end]
        trained = mean(line.get("trained_samples_per_s", 0.0) for line in lines) if lines else 0.0
        return Turn(who, begin, end, after[0] - before[0], after[1] - before[1], trained)

    async def _publish(self, topics: Sequence[str], rate: float, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        start, count = loop.time(), 0
        while (at := start + count / rate) < start + seconds:
            await asyncio.sleep(max(0.0, at - loop.time()))
            num_due = max(int((loop.time() - start) * rate) - count, 1)
            header = (times.sampled_header(time.time_ns() // 1_000_000),)
            due = [topics[(count + i) % len(topics)] for i in range(num_due)]
            await self._log.append([Message(topic, bytes(784), headers=header) for topic in due])
            count += num_due

    async def latencies(self) -> dict[str, list[tuple[float, float]]]:
        """When each record of both arrived, and its latency, in milliseconds. Ends the bare loop."""
        self._bare.send_signal(signal.SIGTERM)
        out, _ = await self._bare.communicate()
        partition = TopicPartition("latency.predictions.pi-a")
        end = (await self._log.watermarks([partition]))[partition].high
        found: list[tuple[float, float]] = []
        async with self._log.reader({partition: 0}) as reader:
            while reader.position(partition) < end:
                for record in await reader.poll(max_records=1000, timeout_s=1.0):
                    each = prediction.decode(record.value)
                    if each.latency_ms is not None:
                        found.append((each.arrived_ms, each.latency_ms))
        return {
            "companion": found,
            "bare loop": [(arrived, late) for arrived, late in json.loads(out.splitlines()[-1])],
        }


@contextlib.asynccontextmanager
async def site(folder: Path, images: int) -> AsyncIterator[Site]:
    """Broker, archive node, edge, companion and the bare loop, with a model in service."""
    async with contextlib.AsyncExitStack() as stack:
        broker = await asyncio.to_thread(stack.enter_context, Apache())
        topology = folder / "topology.yaml"
        topology.write_text(
            _TOPOLOGY.format(
                bootstrap=broker.bootstrap, labels=FASHION, archive=(folder / "archive").as_uri(), model=DESIGNS_MODEL
            )
        )
        source = ("--from", "fashion-mnist", "--limit", str(images))
        importer = await Child.start("import", "archive", "import", str(topology), *source)
        if await importer.ended() != 0:
            raise RuntimeError(f"the import failed\n{importer.last_words()}")
        environment = {"XDG_STATE_HOME": str(folder / "state"), "XDG_CACHE_HOME": str(folder / "cache")}

        async def start(command: str, node: str, *within: str) -> Child:
            child = await Child.start(
                f"{command} {node}", command, str(topology), "--node", node,
                within=within, environment=environment,
            )  # fmt: skip
            stack.push_async_callback(child.stop)
            return child

        await start("run", "vault")
        edge = await start("run", "pi-a", "nice", "-n", _EDGE_NICENESS)
        companion = await start("infer", "pi-a")
        await companion.wait_for("infer.model_loaded")
        log = await stack.enter_async_context(KafkaLog(Kafka((broker.bootstrap,)), RecordingHealth()))
        await log.ensure([TopicSpec(_OUT)])
        bare = await _start_bare(broker.bootstrap)
        stack.callback(_kill, bare)
        yield Site(edge, {"companion": companion.pid, "bare loop": bare.pid}, log, bare)


async def _start_bare(bootstrap: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "tests.bench.latency_bare", bootstrap, _OUT, *_TOPICS["bare loop"]]
    bare = await asyncio.create_subprocess_exec(
        *killed_with_parent(command), stdout=asyncio.subprocess.PIPE, start_new_session=True, limit=1 << 26
    )
    assert bare.stdout is not None
    if await bare.stdout.readline() != b"ready\n":
        raise RuntimeError("the bare loop did not start")
    return bare


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _scheduled_s(pid: int) -> tuple[float, float]:
    """Seconds in which the process's threads ran, and waited for a core."""
    run_ns = wait_ns = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            ran, waited, _ = (thread / "schedstat").read_text().split()
            run_ns, wait_ns = run_ns + int(ran), wait_ns + int(waited)
    return run_ns / 1e9, wait_ns / 1e9


async def measure(rate: float, rounds: int, seconds: float, images: int) -> dict[str, Any]:
    """Both by turns; medians over the rounds."""
    with tempfile.TemporaryDirectory(prefix="edged-latency-bench-") as folder, together() as is_shared:
        async with site(Path(folder), images) as running:
            for who in _TOPICS:
                await running.turn(who, rate, _WARM_UP_S)
            turns = [await running.turn(who, rate, seconds) for _ in range(rounds) for who in _TOPICS]
            latencies = await running.latencies()
        report = {who: _figures([turn for turn in turns if turn.who == who], latencies[who], rate) for who in _TOPICS}
        return {**report, "rate": rate, "is_niceness_shared": is_shared}


def _figures(turns: Sequence[Turn], latencies: Sequence[tuple[float, float]], rate: float) -> dict[str, Any]:
    of_turns = [[late for at, late in latencies if 1e3 * turn.begin <= at < 1e3 * turn.end] for turn in turns]
    by_turn = [np.percentile(each, list(PERCENTILES.values())) for each in of_turns]
    records = [rate * (turn.end - turn.begin) for turn in turns]
    return {
        "records": sum(map(len, of_turns)),
        **{name: round(median(float(each[i]) for each in by_turn), 2) for i, name in enumerate(PERCENTILES)},
        "p99_by_turn": [round(float(each[2]), 2) for each in by_turn],
        "cpu_ms": round(median(1e3 * turn.run_s / n for turn, n in zip(turns, records, strict=True)), 2),
        "core_wait_ms": round(median(1e3 * turn.wait_s / n for turn, n in zip(turns, records, strict=True)), 2),
        "trained_per_s": round(median(turn.trained_per_s for turn in turns)),
    }


def show(report: dict[str, Any]) -> None:
    print(f"{report['rate']:g} records/s; latencies, CPU and waits for a core in ms a record, medians of the turns")
    if not report["is_niceness_shared"]:
        print("no control group can be made here: the edge's niceness has no effect on other processes")
    keys = (*PERCENTILES, "cpu_ms", "core_wait_ms", "trained_per_s")
    print(" " * 12 + "".join(f"{key:>15}" for key in keys) + "   p99 turn by turn")
    for who in _TOPICS:
        figures = report[who]
        print(f"{who:12}" + "".join(f"{figures[key]:15g}" for key in keys) + f"   {figures['p99_by_turn']}")


def main() -> None:
    parser: argparse.ArgumentParser = bench_parser(__doc__, "two rounds of 10 s, and few images")
    parser.add_argument("--rate", type=float, default=200.0, help="records a second of both devices (200)")
    parser.add_argument("--rounds", type=int, help="turns of each (3)")
    parser.add_argument("--seconds", type=float, help="of a turn (30)")
    parser.add_argument("--images", type=int, help="of an epoch, after each of which there is a new model (60000)")
    given = parser.parse_args()
    rounds = given.rounds or (2 if given.quick else 3)
    seconds = given.seconds or (10.0 if given.quick else 30.0)
    images = given.images or (6_000 if given.quick else 60_000)
    print(machine(), flush=True)
    report = asyncio.run(measure(given.rate, rounds, seconds, images))
    show(report)
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
