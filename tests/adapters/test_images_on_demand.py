"""Pillow is loaded where there are images, and where one comes that nobody awaited."""

import subprocess
import sys

import pytest

from edged.adapters.images_on_demand import ImagesOnDemand
from edged.errors import RejectedRecord
from tests.support.valid_topology import VALID, with_device

LOADED = """
import sys
from edged.adapters.images_on_demand import ImagesOnDemand
from edged.errors import RejectedRecord
from tests.support.valid_topology import VALID, with_device
decoder = ImagesOnDemand({})
first = "PIL" in sys.modules
try:
    decoder.decode(b"no image", "png", (8, 8, 1))
except RejectedRecord:
    print(first, "PIL" in sys.modules)
"""


@pytest.mark.parametrize(
    ("topology", "loaded"), [("VALID", "True True"), ('with_device(codec="raw")', "False True")], ids=["images", "raw"]
)
def test_it_is_loaded_at_once_for_images_alone(topology, loaded):
    done = subprocess.run([sys.executable, "-c", LOADED.format(topology)], capture_output=True, check=True, text=True)
    assert done.stdout.split() == loaded.split()


@pytest.mark.parametrize("topology", [VALID, with_device(codec="raw")], ids=["images", "raw"])
def test_what_is_no_image_is_rejected_either_way(topology):
    with pytest.raises(RejectedRecord, match="not_an_image"):
        ImagesOnDemand(topology).decode(b"no image", "png", (8, 8, 1))
