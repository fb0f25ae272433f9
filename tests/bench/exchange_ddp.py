"""The exchange's peer: PyTorch's DistributedDataParallel on gloo, a rank for each edge, as slow and on such a link.

Each rank is a process with an edge's share of a CPU and an edge's link; the ranks reach each other through the bridge,
by the links of both: their delay is twice an edge's.
What it does not do: its samples are in each rank's memory from the beginning, nothing comes over the link but
gradients, and a rank that ends ends all.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from edged.adapters.embedded.server import killed_with_parent
from tests.bench.cpu_limit import Limit, limits
from tests.bench.curve import reached
from tests.bench.exchange_site import Conditions, Mark, Setting, between, mark, pinned
from tests.bench.network import Attachment, Network
from tests.bench.trainer import environment, install, python
from tests.support.brokers import free_port

DDP = "ddp"
"""As a mode."""

COMPRESSIONS = ("none", "fp16")

_WORKER = Path(__file__).with_name("exchange_ddp_worker.py")


class RankFailed(RuntimeError):  # noqa: N818 - named for what happened
    """A rank ended before its time."""


def why_not(network: Network) -> str | None:
    """Why there can be no such runs here; None if there can."""
    with network.links(1, 0.0, 0.0) as (attachment,):
        if attachment.address is None:
            return "ranks cannot reach each other without network namespaces"
    reason = install("torch")
    return None if reason is None else f"torch cannot be installed: {reason}"


async def run(setting: Setting, conditions: Conditions, network: Network, folder: Path) -> dict[str, Any]:
    """As `Site.run`, of this peer."""
    try:
        async with asyncio.timeout(conditions.patience_s), AsyncExitStack() as stack:
            attached = stack.enter_context(network.links(setting.edges, setting.link, setting.delay_s))
            limited = stack.enter_context(limits(setting.edges, conditions.cores))
            port, ranks = free_port(), []
            for i, (attachment, limit) in enumerate(zip(attached, limited, strict=True)):
                given = _settings(setting, conditions) | {
                    "rank": i, "address": attached[0].address, "port": port,
                }  # fmt: skip
                rank = _Rank(i, limit, attachment)
                stack.push_async_callback(rank.end)
                await rank.start(given, folder)
                ranks.append(rank)
            return await _train(ranks, conditions)
    except RankFailed as error:
        return {"failed": str(error)}
    except TimeoutError:
        return {"failed": f"not done in {conditions.patience_s:.0f} s"}


def _settings(setting: Setting, conditions: Conditions) -> dict[str, Any]:
    factor = conditions.batch / conditions.reference_batch if conditions.reference_batch else 1.0
    return {
        "world": setting.edges, "compression": setting.compression, "seed": setting.seed, "batch": conditions.batch,
        "images": conditions.images, "epochs": conditions.epochs, "warmup": conditions.warmup,
        "learning_rate": conditions.learning_rate * factor,
    }  # fmt: skip


class _Rank:
    def __init__(self, index: int, limit: Limit, attachment: Attachment) -> None:
        self._index = index
        self._limit = limit
        self._attachment = attachment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, given: dict[str, Any], folder: Path) -> None:
        """Start it, yet unlimited: importing torch is not what is measured."""
        command = [*pinned(self._index, self._limit), *self._attachment.within]
        with (folder / f"rank-{self._index}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *killed_with_parent([*command, python("torch"), str(_WORKER), json.dumps(given)]),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                env={**environment(1), "GLOO_SOCKET_IFNAME": "eth0"},
            )  # fmt: skip

    async def ready(self) -> None:
        """Wait for it, and limit it."""
        await self.answer()
        assert self._process is not None
        self._limit.take(self._process.pid)

    def release(self) -> None:
        assert self._process is not None
        self._limit.release(self._process.pid)

    def ask(self, what: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())

    async def answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RankFailed(f"rank {self._index} ended with {await self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def mark(self) -> Mark:
        assert self._process is not None
        return mark(self._attachment, self._process.pid)

    async def end(self) -> None:
        """Kill it: there is nothing left to say."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def _train(ranks: Sequence[_Rank], conditions: Conditions) -> dict[str, Any]:
    for rank in ranks:
        await rank.ready()
    marks = [[rank.mark() for rank in ranks]]
    for rank in ranks:
        rank.ask("train")
    lines = []
    for _ in range(conditions.epochs):
        first, *_others = [await rank.answer() for rank in ranks]
        lines.append(first)
        marks.append([rank.mark() for rank in ranks])
    for rank in ranks:
        rank.release()
        rank.ask("test")
    tested = [await rank.answer() for rank in ranks]
    epochs = [*_epochs(lines, marks, tested[0]["accuracies"], -(-conditions.images // conditions.batch))]
    weights = [each["weights"] for each in tested]
    curve = [*_curve(epochs)]
    return {
        "epochs": epochs, "curve": curve, "weights": weights, "same_weights": len(set(weights)) == 1, "defects": [],
        **reached(curve, conditions.goal),
    }  # fmt: skip


def _epochs(
    lines: Sequence[dict[str, Any]], marks: Sequence[Sequence[Mark]], accuracies: Sequence[float], num_steps: int
) -> Iterator[dict[str, Any]]:
    """With the figures that an edge's epoch has; None for what is not told here."""
    for i, (line, accuracy) in enumerate(zip(lines, accuracies, strict=True)):
        seconds = line["seconds"]
        yield {
            **line, "samples_per_s": line["samples"] / seconds, "wait_fraction": 0.0, "steps": num_steps,
            "step_ms": 1000 * seconds / num_steps, "comm_fraction": None, "bytes_per_step": None, "missed": 0,
            "late": 0, "advice": None, "hit_ratio": 1.0, "wall_s": seconds, **between(marks[i], marks[i + 1]),
            "test_accuracy": accuracy,
        }  # fmt: skip


def _curve(epochs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Measured at the ends of epochs alone; `seconds` without what testing there would take."""
    seconds, link_bytes = 0.0, 0.0
    for epoch in epochs:
        seconds, link_bytes = seconds + epoch["seconds"], link_bytes + epoch["link_bytes"]
        accuracy = epoch["test_accuracy"]
        yield {"seconds": seconds, "link_bytes": link_bytes, "epoch": epoch["epoch"] + 1, "accuracy": accuracy}
