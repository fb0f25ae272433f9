"""What the kernels compute does not depend on the CPU or the compiler, to the bit. See also: tests/slow."""

import json
import platform
import subprocess  # noqa: F401 - the compiler and qemu are processes: tests/conftest.py sorts this module by it

import pytest

from edged.adapters.kernels import build
from edged.adapters.kernels.self_test import DIGEST, digest_of
from tests.support.arm import CPUS, run_on_arm
from tests.support.kernel_bits import digests_of
from tests.support.kernel_builds import ARM_COMPILER, backend_of, compiled, flags_of_this_cpu, own_compiler, runnable


def test_every_variant_that_this_cpu_runs_has_the_stored_digest_and_trains_alike():
    best, *others = [digests_of(build.FOLDER / variant.file) for variant in runnable()]

    assert best["self-test"] == DIGEST
    assert all(other == best for other in others)


def test_without_optimisation_the_digest_is_the_same(tmp_path):
    library = compiled(tmp_path / "kernels.so", own_compiler(), *flags_of_this_cpu(), "-O0")

    assert digest_of(backend_of(library)) == DIGEST


def test_a_pi_trains_to_the_same_weights(tmp_path):
    """Whole steps: layers, loss, clipping and each optimizer."""
    if platform.machine() != "x86_64":
        pytest.skip("this is about two kinds of machine")
    (variant,) = build.VARIANTS["aarch64"]
    library = compiled(tmp_path / "kernels.so", [ARM_COMPILER], variant.cc)

    said = run_on_arm(CPUS[0], ["-m", "tests.support.kernel_bits", library])

    assert json.loads(said) == {str(library): digests_of(build.FOLDER / runnable()[0].file)}
