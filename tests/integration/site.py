"""A whole site for a test: a topology file, a data set in the archive, and nodes as real processes.

Nodes are children that log JSON; tests wait for what they log, never for time to pass.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edged.cli.demo.children import Child

FASHION = "[t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, boot]"

TOPOLOGY = """\
schema: 1
site: {site}
kafka: {{bootstrap: ["{bootstrap}"]}}
streams:
  fashion:
    sample: {{shape: [28, 28, 1], dtype: uint8}}
    labels: {labels}
iot:
  - {{name: cam-01, edge: pi-a, stream: fashion, codec: raw}}
  - {{name: cam-02, edge: pi-a, stream: fashion, codec: png}}
  - {{name: cam-03, edge: pi-a, stream: fashion, codec: jpeg}}
edges:
  - {{name: pi-a, memory_limit: 400MiB}}
archive:
  - {{name: vault, url: "{archive}", flush_s: 1s}}
training:
  stream: fashion
  model: {model}
  source: {source}
  epochs: {epochs}
  global_batch: 64
  checkpoint_s: {checkpoint}
  optimizer: {{sgd: {{learning_rate: 0.05, momentum: 0.9}}}}
"""

SMALL_MODEL = "[conv2d: {filters: 8, kernel: 3, activation: relu}, max_pool2d: 2, flatten, dense: 10]"
DESIGNS_MODEL = (
    "[conv2d: {filters: 32, kernel: 3, activation: relu}, max_pool2d: 2, "
    "conv2d: {filters: 64, kernel: 3, activation: relu}, max_pool2d: 2, flatten, dense: 10]"
)


class Site:
    """One topology file and the processes started from it."""

    def __init__(self, folder: Path, bootstrap: str, **settings: Any) -> None:
        self.folder = folder
        self.archive_folder = folder / "archive"
        self.topology = folder / "topology.yaml"
        self.children: list[Child] = []
        values = {
            "site": "greenhouse", "source": "archive", "epochs": 3, "checkpoint": "5min", "model": SMALL_MODEL,
            **settings,
        }  # fmt: skip
        self.topology.write_text(
            TOPOLOGY.format(bootstrap=bootstrap, archive=self.archive_folder.as_uri(), labels=FASHION, **values)
        )

    def environment(self, name: str) -> Mapping[str, str]:
        """State and cache folders below the site's; the log checks itself against its schema."""
        return {
            "XDG_STATE_HOME": str(self.folder / name / "state"),
            "XDG_CACHE_HOME": str(self.folder / name / "cache"),
            "EDGED_STRICT_LOG": "1",
        }

    def state(self, node: str) -> Path:
        """Where the node keeps its checkpoints."""
        return self.folder / node / "state" / "edged" / node

    async def start(self, command: str, node: str, *arguments: str) -> Child:
        """`edged COMMAND topology.yaml --node NODE …` as a process."""
        child = await Child.start(
            f"{command} {node}",
            command,
            str(self.topology),
            "--node",
            node,
            *arguments,
            environment=self.environment(node),
        )
        self.children.append(child)
        return child

    async def edged(self, *arguments: str, expect: int = 0) -> str:
        """Run another edged command to its end; its standard output."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edged", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, "EDGED_STRICT_LOG": "1"},
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == expect, f"{arguments}: {process.returncode}\n{out.decode()}\n{err.decode()}"
        return out.decode()

    async def import_fashion(self, limit: int, test_limit: int = 500) -> None:
        """Load the packaged images straight into the archive."""
        for split, most in (("train", limit), ("test", test_limit)):
            await self.edged(
                "archive", "import", str(self.topology), "--from", "fashion-mnist-small", "--split", split,
                "--limit", str(most),
            )  # fmt: skip

    async def serve(self, images: int = 500) -> tuple[Child, Child, Child]:
        """Import some images and start vault, pi-a and its companion; all training is done and the model served."""
        await self.import_fashion(images, test_limit=100)
        vault, edge, companion = [
            await self.start(command, node) for command, node in (("run", "vault"), ("run", "pi-a"), ("infer", "pi-a"))
        ]
        await edge.wait_for("train.finished")
        await edge.wait_for("ingest.reading")
        await companion.wait_for("infer.model_loaded")
        return vault, edge, companion


async def until_archived(vault: Child, samples: int) -> None:
    """Wait until the archive holds so many samples of the edges."""
    await vault.until(
        lambda lines: sum(line["samples"] for line in lines if line.get("event") == "archive.flushed") >= samples,
        f"{samples} samples were archived",
    )


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[Site]:
    """Stops every child that is still there at the end."""
    try:
        yield site
    finally:
        for child in reversed(site.children):
            if child.exit_code is None:
                await child.stop()
