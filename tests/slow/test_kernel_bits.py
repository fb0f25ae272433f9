"""The same bits from every compiler, at every optimisation, on every CPU: of the self-test, and of whole steps."""

import json
import platform

import pytest

from edged.adapters.kernels import build
from edged.adapters.kernels.self_test import DIGEST
from tests.support.arm import CPUS, run_on_arm
from tests.support.kernel_bits import digests_of
from tests.support.kernel_builds import ARM_COMPILER, compiled, own_compiler, pinned_compiler, runnable

OPTIMISATIONS = ["-O1", "-O2", "-Os", "-O3"]


@pytest.fixture(scope="module")
def expected():
    """What the installed kernels compute."""
    digests = digests_of(build.FOLDER / runnable()[0].file)
    assert digests["self-test"] == DIGEST
    return digests


@pytest.mark.parametrize("optimisation", OPTIMISATIONS)
def test_the_own_compiler_computes_the_same_at_each_optimisation(process, tmp_path, expected, optimisation):
    for variant in runnable():
        library = compiled(tmp_path / variant.file, own_compiler(), variant.cc, optimisation)

        assert digests_of(library) == expected, variant.instructions


def test_the_published_wheels_compiler_computes_the_same(process, tmp_path, expected):
    for variant in runnable():
        library = compiled(tmp_path / variant.file, pinned_compiler(build.machine()), variant.zig)

        assert digests_of(library) == expected, variant.instructions


@pytest.mark.skipif(platform.machine() != "x86_64", reason="this is about two kinds of machine")
@pytest.mark.parametrize("compiler", ["gcc", "the published wheels'"])
def test_the_cpus_of_a_pi_compute_the_same(process, tmp_path, expected, compiler):
    (variant,) = build.VARIANTS["aarch64"]
    command, flag = ([ARM_COMPILER], variant.cc) if compiler == "gcc" else (pinned_compiler("aarch64"), variant.zig)
    library = compiled(tmp_path / variant.file, command, flag)

    said = {cpu: json.loads(run_on_arm(cpu, ["-m", "tests.support.kernel_bits", library])) for cpu in CPUS}

    assert said == {cpu: {str(library): expected} for cpu in CPUS}
