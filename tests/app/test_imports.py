"""What a node imports is what it needs: each module takes time at the start, and memory for as long as it runs."""

import subprocess
import sys

import pytest

SEEN = "import sys, {}; print(*(name for name in sys.modules if name.startswith({!r})))"
LEFT_OUT = (
    "edged.services.group",
    "edged.domain.group",
    "edged.services.inference",
    "edged.adapters.tflite",
    "pyarrow",
    "hdfs_native",
    "obstore",
    "edged.adapters.objects",
    "PIL",
)


@pytest.mark.parametrize("package", LEFT_OUT)
def test_an_edge_alone_imports_nothing_that_others_need(package):
    """Groups, the companion and the archive node import it when they begin."""
    done = subprocess.run(
        [sys.executable, "-c", SEEN.format("edged.app.node", package)], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == []


def test_a_companion_imports_no_image_decoder_for_raw_samples():
    done = subprocess.run(
        [sys.executable, "-c", SEEN.format("edged.app.companion", "PIL")], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == []
