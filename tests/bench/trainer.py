# ruff: noqa: T201 - a script that prints what it measured
"""How fast and how large the trainer is, side by side with TensorFlow and PyTorch on the same cores.

Run it from the repository: python -m tests.bench.trainer [--quick] [--json] [--net all]

Makes an environment for each peer in the cache folder and measures in rounds: in each round every peer trains for as
long as the others, one after the other, on as many CPUs as it has threads; reported are medians over the rounds. Other
work on the machine slows all of them, so compare ratios. Samples per CPU second are less disturbed by it. A peer that
cannot be installed, or that fails, is reported and left out.

A bound is measured beside the peers, "products": the multiplications and additions that the trainer's layers really
need (3×3 kernels by Winograd), at the rate at which this processor multiplies and adds in registers. What the trainer
lacks of it, it spends on everything else. "edged numpy" is the reference, which computes where there are no kernels.

`--instructions avx2` lets all of them use AVX2 at most, as far as they can be told.

Memory includes the whole data set, which each process holds as bytes (47 MB).
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edged.adapters.kernels.build import FOLDER, SOURCE
from tests.bench.arguments import bench_parser

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).with_name("trainer_peers.py")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edged-bench"
PACKAGES = {
    "edged": [], "tensorflow": ["tensorflow-cpu"], "torch": ["torch", "numpy"],
    "script": ["tensorflow-cpu", "confluent-kafka"],
}  # fmt: skip
IMPORTS = {"edged": "edged.domain.nn.model", "tensorflow": "tensorflow", "torch": "torch"}
ENVIRONMENT = {
    "edged": "edged", "edged numpy": "edged", "tensorflow": "tensorflow", "keras fit": "tensorflow", "torch": "torch",
    "torch channels_last": "torch", "products": "edged",
}  # fmt: skip
BOUND = "products"
SLOW_VARIANTS = {"keras fit", "torch channels_last"}  # by their nature or on CPUs; left out when time is short
NETS = ["fashion", "depthwise", "series", "mobile", "keywords"]
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # where they are set, an old kernel would be measured


instructions: dict[str, str] = {}
"""What tells the peers to use no newer instructions than asked for."""


def use_avx2(folder: Path) -> None:
    """Let all use AVX2 at most: OpenBLAS, NumPy, oneDNN, PyTorch and our kernels, of which `folder` gets a copy."""
    for name in (SOURCE.name, "kernels-x86_64-v3.so"):
        shutil.copy(FOLDER / name, folder)
    newer = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
    instructions.update(
        OPENBLAS_CORETYPE="Haswell", NPY_DISABLE_CPU_FEATURES=newer, ONEDNN_MAX_CPU_ISA="AVX2",
        MKL_ENABLE_INSTRUCTIONS="AVX2", ATEN_CPU_CAPABILITY="avx2", EDGED_BENCH_KERNELS=str(folder),
        EDGED_BENCH_CFLAGS="-march=x86-64-v3",
    )  # fmt: skip


class PeerError(Exception):
    """A peer's process ended before its time."""


@dataclass
class Runs:
    """What one peer did in the rounds of one setting."""

    samples_per_s: list[float] = field(default_factory=list)
    samples_per_cpu_s: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0
    loss: float = 0.0


class Peer:
    """A peer's process."""

    def __init__(self, name: str, net: str, threads: int, batch: int) -> None:
        cpus = sorted(os.sched_getaffinity(0))[-threads:]
        self.runs = Runs()
        self._batch = batch
        command = [python(ENVIRONMENT[name]), str(PEERS), name, net, str(threads), str(batch)]
        self._process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cpus)), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=ROOT,
        )  # fmt: skip
        self.hello: dict[str, Any] = self._read()
        self._rate = 0.0

    def warm_up(self) -> None:
        """Compile and fill caches, and find out how many samples take a second."""
        self._ask(4 * self._batch)
        answer = self._ask(16 * self._batch)
        self._rate = 16 * self._batch / answer["s"]

    def train(self, seconds: float) -> None:
        num = max(round(self._rate * seconds / self._batch), 1) * self._batch
        answer = self._ask(num)
        self.runs.samples_per_s.append(num / answer["s"])
        self.runs.samples_per_cpu_s.append(num / answer["cpu_s"])
        self.runs.peak_rss_bytes, self.runs.loss = answer["peak_rss_bytes"], answer["loss"]

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, num_samples: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # how it ended, `_read` finds out
            print(num_samples, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def python(name: str) -> str:
    return str(CACHE / name / "bin" / "python")


def environment(threads: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SLOWING} | instructions
    return kept | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}


def install(name: str) -> str | None:
    """Make the peer's environment if it is not there; why not, if that fails."""
    packages = PACKAGES[name] or tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    done = CACHE / name / "installed.json"
    if done.exists() and json.loads(done.read_text()) == packages:
        return None
    print(f"installing {name} …", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", CACHE / name], check=True)
    pip = subprocess.run(
        [python(name), "-m", "pip", "install", "--quiet", *packages], check=False, text=True, capture_output=True
    )
    if pip.returncode:
        return pip.stderr.strip().splitlines()[-1]
    done.write_text(json.dumps(packages))
    return None


def installed_bytes(name: str) -> int:
    """The peer's packages on disk, without pip's own."""
    packages = next((CACHE / name / "lib").glob("python*/site-packages"))
    return sum(
        file.stat().st_size
        for file in packages.rglob("*")
        if file.is_file() and file.relative_to(packages).parts[0].partition("-")[0] not in {"pip", "setuptools"}
    )


def import_s(name: str, times: int) -> float:
    """The median of several imports, each in a fresh process."""
    code = f"import time; begin = time.perf_counter(); import {IMPORTS[name]}; print(time.perf_counter() - begin)"
    seconds = [
        subprocess.check_output(
            [python(name), "-c", code], text=True, env=environment(1), cwd=ROOT, stderr=subprocess.DEVNULL
        )
        for _ in range(times)
    ]
    return statistics.median(map(float, seconds))


def measure(names: Sequence[str], net: str, threads: int, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """All peers by turns: medians, and their ratios to the best of the others. Which failed, and how."""
    peers: dict[str, Peer] = {}
    failed: dict[str, str] = {}

    def for_each(names: Sequence[str], act: Callable[[str], None]) -> None:
        for name in names:
            try:
                act(name)
            except PeerError as error:
                failed[name] = str(error)
                peers.pop(name, None)

    def start(name: str) -> None:
        peers[name] = Peer(name, net, threads, batch)
        peers[name].warm_up()

    for_each(names, start)
    for _ in range(rounds):
        for_each(list(peers), lambda name: peers[name].train(seconds))
    for peer in peers.values():
        peer.end()
    result: dict[str, Any] = {"net": net, "threads": threads, "batch": batch, "peers": {}, "failed": failed}
    for name, peer in peers.items():
        result["peers"][name] = {
            "samples_per_s": statistics.median(peer.runs.samples_per_s),
            "samples_per_cpu_s": statistics.median(peer.runs.samples_per_cpu_s),
            "peak_rss_bytes": peer.runs.peak_rss_bytes,
            "loss": peer.runs.loss,
        }
        if name == BOUND:
            result["peers"][name]["flops_a_sample"] = peer.hello["flops_a_sample"]
    result["ratios"] = ratios(result["peers"])
    return result


def ratios(peers: dict[str, Any]) -> dict[str, float]:
    own = peers.get("edged")
    if own is None:
        return {}
    others = [value for name, value in peers.items() if name not in {"edged", "edged numpy", BOUND}]
    result = {}
    for key in ("samples_per_s", "samples_per_cpu_s"):
        if others:
            result[f"{key}_to_best_peer"] = own[key] / max(other[key] for other in others)
        if "edged numpy" in peers:
            result[f"{key}_to_numpy"] = own[key] / peers["edged numpy"][key]
        if BOUND in peers:
            result[f"{key}_to_{BOUND}"] = own[key] / peers[BOUND][key]
    if "tensorflow" in peers:
        result["memory_to_tensorflow"] = own["peak_rss_bytes"] / peers["tensorflow"]["peak_rss_bytes"]
    return result


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    known = (
        "AVX2 at most" if instructions else "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "NEON"
    )
    name = models[-1] if models else platform.machine()
    return f"{name}, {known}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"


def show(setting: dict[str, Any]) -> None:
    print(f"\n{setting['net']}, threads {setting['threads']}, batch {setting['batch']}")
    print(f"  {'':20}{'samples/s':>10}{'per CPU s':>10}{'peak RSS':>10}{'loss':>8}")
    for name, peer in setting["peers"].items():
        print(
            f"  {name:20}{peer['samples_per_s']:10.0f}{peer['samples_per_cpu_s']:10.0f}"
            f"{peer['peak_rss_bytes'] / 1e6:7.0f} MB{peer['loss']:8.3f}"
        )
    for name, reason in setting["failed"].items():
        print(f"  {name:20}failed: {reason}")
    for name, value in setting["ratios"].items():
        print(f"    {name.replace('_', ' '):44}{value:5.2f}")


def main() -> None:
    parser = bench_parser(__doc__, "about a minute: fewer and shorter rounds, batch 128")
    parser.add_argument("--net", choices=[*NETS, "all"], action="append", help="several times for several")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each peer in each round")
    parser.add_argument("--instructions", choices=["avx2"], help="at most; by default all that the CPU has")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.instructions:
            use_avx2(Path(folder))
        report = run(arguments)
    if arguments.json:
        print(json.dumps(report))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    quick = arguments.quick
    rounds, seconds = arguments.rounds or (3 if quick else 7), arguments.seconds or (0.5 if quick else 2.0)
    report: dict[str, Any] = {"machine": machine(), "rounds": rounds, "missing": {}, "installed": {}, "settings": []}
    print(report["machine"])
    for name in IMPORTS:
        if (reason := install(name)) is not None:
            report["missing"][name] = reason
            print(f"{name} cannot be installed: {reason}")
            continue
        sizes = {"bytes": installed_bytes(name), "import_s": import_s(name, 1 if quick else 5)}
        report["installed"][name] = sizes
        print(f"{name:12} installed {sizes['bytes'] / 1e6:6.0f} MB, import {sizes['import_s']:.2f} s")
    chosen = arguments.net or ["fashion"]
    left_out = SLOW_VARIANTS if quick else set()
    names = [name for name, where in ENVIRONMENT.items() if where not in report["missing"] and name not in left_out]
    for net in NETS if "all" in chosen else chosen:
        for threads in arguments.threads or [1, 2]:
            for batch in arguments.batch or ([128] if quick else [32, 128]):
                setting = measure(names, net, threads, batch, rounds, seconds)
                report["settings"].append(setting)
                show(setting)
    return report


if __name__ == "__main__":
    main()
