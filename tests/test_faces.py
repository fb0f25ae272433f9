"""The face of a package: every name that it promises, and no module that nobody asked for."""

import importlib
import subprocess
import sys

import pytest

FACES = ("edged.ports", "edged.domain.topology")


@pytest.mark.parametrize("package", FACES)
def test_each_name_is_there_and_no_other(package):
    module = importlib.import_module(package)
    assert {name: getattr(module, name).__class__ for name in module.__all__}.keys() == set(module.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


@pytest.mark.parametrize(
    ("name", "heavy"), [("edged.ports import Log", "numpy"), ("edged.domain.topology import Stream", "edged.domain.nn")]
)
def test_a_light_name_loads_no_heavy_module(name, heavy):
    script = f"from {name}; import sys; print({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"
