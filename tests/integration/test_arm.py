"""On a Pi's processor, emulated: edged and the wheels of its package. The rest: tests/slow/test_package.py."""

from tests.support.arm import CPUS, run_on_arm

NODES = "import edged.app.companion, edged.app.node, edged.adapters.tflite.runtime; print('imported')"


def test_a_pi_imports_what_nodes_run_and_checks_a_topology():
    assert run_on_arm(CPUS[0], ["-c", NODES]) == "imported\n"
    assert run_on_arm(CPUS[0], ["-m", "edged", "check", "config/02-greenhouse.yaml"]).endswith("\nvalid\n")
