"""`edged demo`, and the figures that it ends with."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edged.adapters.datasets import fashion_mnist
from edged.cli.demo.processes import Child
from tests.support.forked import start_forked


async def run_demo(
    *arguments: str, environment: Mapping[str, str] | None = None, is_forked: bool = True
) -> dict[str, Any]:
    """The figures of a demo that ends well. `is_forked`: it and its nodes are, and none imports edged once more."""
    start = start_forked if is_forked else Child.start
    child = await start("demo", "demo", "--json", *arguments, environment=environment or {})
    assert await child.ended() == 0, child.last_words() + child.stdout.decode()
    summary = json.loads(child.stdout.decode().strip().splitlines()[-1])
    assert isinstance(summary, dict)
    return summary


def assert_whole(summary: dict[str, Any], *, published: int) -> None:
    """Every published live sample was archived and predicted exactly once."""
    counts = {key: summary[key] for key in ("published", "archived", "predicted", "archived_twice", "predicted_twice")}
    assert counts == {
        "published": published,
        "archived": published,
        "predicted": published,
        "archived_twice": 0,
        "predicted_twice": 0,
    }
    assert summary["dead_lettered"] == 0


def a_few_articles(folder: Path, to_train_on: int = 800, to_test_on: int = 100) -> Path:
    """IDX files with the first of the packaged images."""
    folder.mkdir()
    for file in fashion_mnist.SMALL_FOLDER.glob("*.gz"):
        blob = gzip.decompress(file.read_bytes())
        begin, count = 4 + 4 * blob[3], to_train_on if file.name.startswith("train") else to_test_on
        size = (len(blob) - begin) // int.from_bytes(blob[4:8])
        (folder / file.stem).write_bytes(
            blob[:4] + count.to_bytes(4) + blob[8:begin] + blob[begin : begin + count * size]
        )
    return folder
