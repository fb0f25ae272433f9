# ruff: noqa: T201 - a script that prints what it measured
"""What a start to its first gradient takes of a Pi's processor, emulated, and an estimate from it for an ARM core.

Run it from the repository, as root: python -m tests.bench.start_arm [--rounds 3] [--quick] [--json]

The edge of `tests.bench.start`, in a Debian for ARM under qemu; broker and archive are not emulated. CPU seconds of the
emulated process, medians; "again" has the size of micro-batches that the first start measured. The factor is what
emulation makes of the CPU seconds of `edged check` on the same file: the estimate is for an ARM core as fast as one of
this machine's. A Pi's are slower, and no Pi has been measured.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from systemd.package import wheels
from systemd.package.suites import MACHINES, SUITES
from tests.bench.arguments import bench_parser
from tests.bench.start import NODE, cpu, has_trained, served_site
from tests.support.booted import roots
from tests.support.brokers import Apache
from tests.support.debian_root import ARM_PACKAGES, PI, DebianRoot, arm_files
from tests.support.site import Site

SUITE = "bookworm"
SAMPLE_S = 0.5
LOOK_S = 0.05
ENVIRONMENT = f"""\
cd /tmp
export PYTHONPATH=/opt/edged HOME=/root OPENBLAS_NUM_THREADS=1 EDGED_TIMING='{json.dumps({"sample_s": SAMPLE_S})}'
"""


def installed(folder: Path) -> DebianRoot:
    """A system for a Pi with edged in it."""
    wheel = wheels.own("arm64", folder / "wheel")
    root = DebianRoot(arm_files(SUITE, folder / "arm64", ARM_PACKAGES, roots.MIRROR), folder / "root", PI)
    fitting = wheels.target(SUITES[SUITE], MACHINES["arm64"])
    wheels.uv("pip", "install", "--target", root.file("/opt/edged"), *fitting, f"edged @ {wheel.as_uri()}")
    return root


async def start(root: DebianRoot, number: int) -> float:
    """CPU seconds of a start until the first gradient; the edge is stopped then."""
    log = root.file(f"/log-{number}")
    # On a busy machine an emulated stop may last longer than a node waits for its end.
    script = f"{ENVIRONMENT}python3 -P -m edged run /topology.yaml --node {NODE} 2> /log-{number} || true"
    running = asyncio.create_task(asyncio.to_thread(root.run, script))
    await asyncio.to_thread(wait_for_gradient, log, running.done)
    if not trains(log):
        raise RuntimeError(f"the edge ended: {log.read_text()[-2000:]}")
    (pid,) = emulated()
    found = cpu(pid)
    os.kill(pid, signal.SIGTERM)
    await running
    return found


def wait_for_gradient(log: Path, has_ended: Callable[[], bool]) -> None:
    while not trains(log) and not has_ended():
        time.sleep(LOOK_S)


def trains(log: Path) -> bool:
    """Whether a line of the log shows a sample trained."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return any(has_trained(json.loads(line)) for line in lines if line.startswith("{"))


def emulated() -> list[int]:
    """The processes of edges that are emulated."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        words = (folder / "cmdline").read_bytes().split(b"\0") if (folder / "cmdline").exists() else []
        if words and b"qemu" in words[0] and b"/topology.yaml" in words and NODE.encode() in words:
            found.append(int(folder.name))
    return found


def emulation_factor(root: DebianRoot, topology: Path, rounds: int) -> float:
    """What emulation makes of the CPU seconds of `edged check`; the files that Python compiles are made before."""
    there = f"{ENVIRONMENT}bash -c '{timed('python3', Path('/topology.yaml'))}'"
    here = ["bash", "-c", timed(sys.executable, topology)]
    emulated_s = [seconds(root.run(there)) for _ in range(rounds + 1)]
    native_s = [
        seconds(subprocess.run(here, check=True, capture_output=True, text=True).stderr) for _ in range(rounds + 1)
    ]
    return median(emulated_s[1:]) / median(native_s[1:])


def timed(python: str, topology: Path) -> str:
    """A shell's command that prints the CPU seconds of a check."""
    return f'TIMEFORMAT="%U %S"; time {python} -P -m edged check {topology} > /dev/null 2> /dev/null'


def seconds(printed: str) -> float:
    return sum(map(float, printed.split()[-2:]))


async def measure(rounds: int, folder: Path) -> Mapping[str, float]:
    root = await asyncio.to_thread(installed, folder)
    with Apache() as broker:
        site: Site = await served_site(folder / "site", broker)
        vault = await site.start("run", "vault")
        await vault.wait_for("life.ready")
        root.file("/topology.yaml").write_text(site.topology.read_text())
        factor = await asyncio.to_thread(emulation_factor, root, site.topology, rounds)
        firsts, again = [], []
        for number in range(rounds):
            root.run(f"{ENVIRONMENT}rm -rf ~/.local ~/.cache")
            firsts.append(await start(root, 2 * number))
            again.append(await start(root, 2 * number + 1))
        await vault.stop()
    figures = {"first_cpu_s": median(firsts), "again_cpu_s": median(again), "factor": factor}
    estimates = {f"{kind}_estimated_s": figures[f"{kind}_cpu_s"] / factor for kind in ("first", "again")}
    return {key: round(value, 2) for key, value in {**figures, **estimates}.items()}


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, "1 round")
    parser.add_argument("--rounds", type=int, help="starts of each kind (3)")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 3)
    return given


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="edged-start-arm-") as folder:
        found = asyncio.run(measure(given.rounds, Path(folder)))
    print(", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    if given.json:
        print(json.dumps({"rounds": given.rounds, **found}))


if __name__ == "__main__":
    main()
