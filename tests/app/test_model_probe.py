"""What serves a model has run it in a child process before."""

import pytest

from edged.adapters.kernels import build
from edged.adapters.tflite.proof import Probe
from edged.app import model_probe
from edged.errors import FormatError, NotProven
from tests.support.hostile_models import crashing, sound
from tests.support.kernels import required_kernels

pytestmark = pytest.mark.usefixtures("process")

NO_KERNELS = """
from edged.adapters.kernels import library
library.ABI += 1  # as of an edged whose kernels have just been replaced
from edged.app import model_probe
model_probe.probe.run(model_probe.kernels)
"""
OF_KERNELS = """
from pathlib import Path
from edged.app import model_probe
model_probe.probe.run(model_probe.kernels)
if not any(line.split()[-1].startswith("{}") for line in Path("/proc/self/maps").read_text().splitlines()):
    raise SystemExit("no kernels in this process")
"""


@pytest.fixture
def probe():
    required_kernels()
    return Probe(model_probe.__name__)


@pytest.mark.parametrize("runner", ["tflite", "features", "numpy", "kernels"])
def test_a_sound_file_passes(runner, probe):
    probe.run(runner, sound())


def test_a_file_is_run_by_the_kernels_where_they_serve(tmp_path, monkeypatch):
    required_kernels()
    (tmp_path / "child.py").write_text(OF_KERNELS.format(build.FOLDER / "kernels-"))
    monkeypatch.syspath_prepend(tmp_path)
    Probe("child").run("kernels", sound())
    with pytest.raises(FormatError, match="no kernels in this process"):
        Probe("child").run("numpy", sound())


def test_kernels_refuse_what_is_no_model_in_words(probe):
    with pytest.raises(FormatError, match=r"not a .tflite file of edged's, or a damaged one"):
        probe.run("kernels", crashing()[:100])


def test_a_child_without_the_kernels_that_its_parent_has_proves_nothing(tmp_path, monkeypatch):
    required_kernels()
    (tmp_path / "child.py").write_text(NO_KERNELS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotProven, match="interface"):
        Probe("child").run("kernels", sound())
