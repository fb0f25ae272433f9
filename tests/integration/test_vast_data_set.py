"""An edge with default settings and a data set of 50 million samples, in a process of its own."""

import asyncio
import json
import sys

import pytest

SAMPLES = 12_000
"""More than a window: what comes after the first is planned, fetched and cached while it trains."""


@pytest.mark.parametrize("mode", ["stratified", pytest.param("importance", marks=pytest.mark.slow)])
async def test_fifty_million_samples_are_planned_and_trained_on_within_the_default_memory_limit(mode, tmp_path):
    """With importance, by the scores that an earlier epoch left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.vast_edge", mode, str(SAMPLES), str(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    [drawn] = [line for line in map(json.loads, err.splitlines()) if line["event"] == "epoch.drawn"]
    told = json.loads(out)

    print(f"{mode}: {told['trained']:,} samples, at most {told['peak_bytes'] / (1 << 20):.0f} MiB")  # noqa: T201 - the test's figure
    assert drawn["samples"] > 49_000_000
    assert told["trained"] >= SAMPLES
    assert told["accuracy"] > 0.5
    assert told["peak_bytes"] < told["memory_limit"]
