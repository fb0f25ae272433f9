"""With a full cache an edge of each example of config/ stays within what `edged check` adds up, and within 120 MiB."""

from pathlib import Path

import pytest

from tests.bench.footprint import QUICK_MINUTES, measure
from tests.integration.test_demo import MAX_EDGE_MIB
from tests.support.examples import EXAMPLES
from tests.support.sd_card import hindrance


@pytest.mark.parametrize("file", EXAMPLES)
async def test_an_edge_stays_within_its_memory(apache_kafka, tmp_path: Path, file: str):
    if reason := hindrance():
        pytest.skip(reason)
    figures = await measure(file, apache_kafka, QUICK_MINUTES, tmp_path)
    told = ", ".join(f"{key} {value:.1f}" for key, value in figures.items())
    print(told)  # noqa: T201 - the test's figures
    assert figures["edge_peak_mib"] <= min(MAX_EDGE_MIB, figures["edge_projected_mib"]), told
