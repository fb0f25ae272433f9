"""The kernels touch no memory but what they were given, whatever the geometry and wherever an array lies."""

import os
import secrets
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

from edged.adapters.kernels import build
from tests.support.kernel_builds import compiled, flags_of_this_cpu, own_compiler, runnable, sanitised
from tests.support.properties import examples
from tests.support.requirements import require

GEOMETRIES = 300
"""Of a property of Hypothesis that its children try: see `tests.support.properties`."""
ROOT = Path(__file__).parents[3]


def new_seed() -> int:
    return secrets.randbits(32)


def compute(
    library: Path, place: str, geometries: int, seed: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What becomes of a process that computes many layers in memory placed like that; the seed draws them."""
    numbers = (str(geometries), str(seed))
    command = [sys.executable, "-m", "tests.support.kernel_child", str(library), place, *numbers]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_nothing_beyond_an_array_is_touched_and_neither_its_place_nor_the_vectors_width_matters():
    geometries, seed, digests = examples(GEOMETRIES).max_examples, new_seed(), set()
    for variant, place in product(runnable(), ("after", "before", "tight")):
        done = compute(build.FOLDER / variant.file, place, geometries, seed)
        assert done.returncode == 0, f"{seed=}\n{done.stderr[-3000:]}"
        digests.add(done.stdout)

    assert len(digests) == 1


def test_a_vector_read_beyond_the_end_would_be_found(tmp_path):
    source = tmp_path / "kernels.c"
    text = build.SOURCE.read_text()
    masked = "INLINE vec load_some(const float *p, long n) { return n >= V ? load(p) : load_few(p, (int)n); }"
    assert masked in text
    source.write_text(text.replace(masked, "INLINE vec load_some(const float *p, long n) { return load(p); }"))
    library = compiled(tmp_path / "kernels.so", own_compiler(), *flags_of_this_cpu(), "-O0", source=source)

    assert compute(library, "after", GEOMETRIES).returncode == -signal.SIGSEGV


def test_no_sanitizer_complains(tmp_path):
    runtime = subprocess.run(
        [*own_compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(runtime).is_file():
        require("no libasan.so of this system's compiler")

    library, geometries, seed = sanitised(tmp_path / "kernels.so"), examples(GEOMETRIES).max_examples, new_seed()
    done = compute(library, "tight", geometries, seed, LD_PRELOAD=runtime, ASAN_OPTIONS="detect_leaks=0")

    assert done.returncode == 0, f"{seed=}\n{done.stderr[-6000:]}"
