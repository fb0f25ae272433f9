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
edges:
  - {{name: pi-a, memory_limit: 400MiB}}
archive:
  - {{name: vault, url: "{archive}", flush_s: 1s}}
training:
  stream: fashion
  model:
    - {{conv2d: {{filters: 8, kernel: 3, activation: relu}}}}
    - {{max_pool2d: 2}}
    - flatten
    - {{dense: 10}}
  source: {source}
  epochs: {epochs}
  global_batch: 64
  checkpoint_s: {checkpoint}
  optimizer: {{sgd: {{learning_rate: 0.05, momentum: 0.9}}}}
"""


class Site:
    """One topology file and the processes started from it."""

    def __init__(self, folder: Path, bootstrap: str, **settings: Any) -> None:
        self.folder = folder
        self.archive_folder = folder / "archive"
        self.topology = folder / "topology.yaml"
        self.children: list[Child] = []
        values = {"site": "greenhouse", "source": "archive", "epochs": 3, "checkpoint": "5min", **settings}
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


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[Site]:
    """Stops every child that is still there at the end."""
    try:
        yield site
    finally:
        for child in reversed(site.children):
            if child.exit_code is None:
                await child.stop()
