"""The Debian packages: their sizes, the same bytes twice, and a life in Debian's systems, installed, upgraded, removed.

See `tests/test_package.py` for their parts, and `tests/slow/booted` for nodes that run from them.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from systemd.package import wheels
from systemd.package.__main__ import build
from systemd.package.suites import MACHINES, SUITES
from tests.support.booted import roots
from tests.support.debian_root import DebianRoot, arm_files
from tests.support.requirements import require

MAX_BYTES = 25_000_000
SITE = "/usr/lib/edged/lib/python3*/site-packages"
RUNTIMES = {"bookworm": "tflite-runtime", "trixie": "ai-edge-litert"}
PI = "cortex-a53"
"""A Pi 3's or Zero 2's: of those that edged is for, the one with the fewest instructions."""

WHEELS_TAGS = (
    "embedded-library",
    "unstripped-binary-or-object",
    "missing-dependency-on-libc",
    "library-not-linked-against-libc",
)
"""What lintian says of wheels: they bring libraries of their own, some with symbols, or take libc from Python's."""

QUICK_TAGS = ("uses-no-compression-for-control-tarball", "uses-no-compression-for-data-tarball")
"""What it says of packages that are made for a test."""

OWN_PYTHON_TAGS = ("wrong-path-for-interpreter",)
"""The package's command runs in its own environment, never in the system's."""

ARM_PACKAGES = (
    *(
        "base-files",
        "base-passwd",
        "bash",
        "coreutils",
        "dash",
        "debianutils",
        "diffutils",
        "dpkg",
        "findutils",
        "grep",
    ),
    *("libc-bin", "libstdc++6", "python3", "sed", "systemd", "tar", "zlib1g"),
)
"""What dpkg runs, and the package's dependencies."""

IMPORT_ALL = f"""
import importlib, pathlib, sys
site = next(pathlib.Path("/").glob("{SITE[1:]}"))
libraries = [path for path in sorted(site.rglob("*.so")) if ".libs" not in str(path)]
for path in libraries:
    name = ".".join((*path.parent.relative_to(site).parts, path.name.partition(".")[0]))
    if not path.name.startswith(("lib", "kernels-")):
        importlib.import_module(name)
        print(name)
"""
"""What is in a wheel and cannot be imported would have to be left out."""

TRY_RUNTIME = """
from edged.adapters.tflite.runtime import probe_runtime
from edged.adapters.kernels.backend import compiled
runtime = probe_runtime()
print(runtime.name, runtime.delegate, compiled().name.partition("/")[0], runtime.problem)
"""

each_suite = pytest.mark.parametrize("suite", SUITES)
each_arch = pytest.mark.parametrize("arch", MACHINES)


@pytest.fixture(scope="module")
def own_wheels(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("wheels")
    for arch in MACHINES:
        wheels.own(arch, folder)
    return folder


@pytest.fixture(scope="module")
def packages(own_wheels, tmp_path_factory):
    """Makes those of a suite and architecture, once: not compressed."""
    made: dict[tuple[str, str], list[Path]] = {}

    def packages_of(suite: str, arch: str) -> list[Path]:
        if (suite, arch) not in made:
            folder = tmp_path_factory.mktemp(f"{suite}-{arch}")
            wheel = wheels.find_own(arch, own_wheels)
            made[suite, arch] = list(build(SUITES[suite], arch, wheel, folder, quick=True))
        return made[suite, arch]

    return packages_of


# the files


@each_suite
@each_arch
def test_an_edges_package_is_small(own_wheels, tmp_path, suite, arch):
    file = next(build(SUITES[suite], arch, wheels.find_own(arch, own_wheels), tmp_path))
    assert file.stat().st_size <= MAX_BYTES


def test_the_same_checkout_gives_the_same_bytes(own_wheels, tmp_path, monkeypatch):
    """Its own wheel and kernels, too, in other folders."""
    first = next(build(SUITES["trixie"], "arm64", wheels.find_own("arm64", own_wheels), tmp_path, quick=True))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    again = wheels.own("arm64", tmp_path / "again")
    assert again.read_bytes() == wheels.find_own("arm64", own_wheels).read_bytes()
    second = next(build(SUITES["trixie"], "arm64", again, tmp_path / "elsewhere", quick=True))
    assert first.read_bytes() == second.read_bytes()


@each_suite
@each_arch
def test_lintian_finds_no_error(packages, suite, arch):
    lintian = shutil.which("lintian") or require("lintian (Debian: lintian)")
    suppressed = ",".join((*WHEELS_TAGS, *QUICK_TAGS, *OWN_PYTHON_TAGS))
    run = subprocess.run(
        [lintian, "--fail-on=error", f"--suppress-tags={suppressed}", *packages(suite, arch)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


# their life


@pytest.fixture
def system(packages, tmp_path) -> Callable[..., DebianRoot]:
    """Makes a system with the packages in its root folder, not installed."""

    def system_of(suite: str, lower: Path, arch: str, cpu: str | None = None) -> DebianRoot:
        root = DebianRoot(lower, tmp_path / "root", cpu)
        for package in packages(suite, arch):
            shutil.copy(package, root.file("/"))
        return root

    return system_of


def state(root: DebianRoot) -> str:
    """What dpkg says of the package: i installed, c only its configuration is left, n nothing."""
    return root.run("dpkg-query -W -f '${db:Status-Abbrev}' edged 2>&1 || true").strip()[1:2]


@each_suite
def test_a_system_is_as_before_once_the_package_is_purged_but_for_its_user(system, suite):
    root = system(suite, roots.debian(suite), "amd64")
    root.run("cd / && apt install --yes ./edged_*.deb")
    assert state(root) == "i"
    assert root.run("id -un edged") == "edged\n"
    assert root.run("edged --version").startswith("edged 0.")
    examples = root.run("ls /usr/share/doc/edged/examples/*.yaml").split()
    assert len(examples) >= 6
    for example in examples:
        root.run(f"edged check {example}")
    assert root.run(f"/usr/lib/edged/bin/python3 -P -c '{TRY_RUNTIME}'") == f"{RUNTIMES[suite]} xnnpack compiled \n"

    root.run("install -d -o edged /var/lib/edged/pi-a; touch /var/lib/edged/pi-a/state /etc/edged/topology.yaml")
    root.run("cd / && dpkg --install edged_*.deb")
    root.run("edged --version")

    root.run("dpkg --remove edged")
    assert state(root) == "c"
    root.run("test ! -e /usr/lib/edged -a ! -e /usr/bin/edged")
    root.run("test -e /var/lib/edged/pi-a/state -a -e /etc/edged/topology.yaml")

    root.run("cd / && dpkg --install edged_*.deb && edged --version && dpkg --purge edged")
    left = root.run("find / -xdev -name '*edged*' ! -name '*.deb' ! -path '/var/lib/dpkg/*' ! -path '/var/log/*'")
    assert left == ""


def test_a_purge_leaves_mount_points_and_what_is_mounted_further_down_and_takes_the_rest(system):
    root = system("bookworm", roots.debian("bookworm"), "amd64")
    left = root.run("""
        dpkg --install /edged_*.deb > /dev/null
        mkdir -p /var/lib/edged /var/cache/edged/disk
        mount -t tmpfs tmpfs /var/lib/edged
        mount -t tmpfs tmpfs /var/cache/edged/disk
        touch /var/lib/edged/state /var/cache/edged/disk/photos /var/cache/edged/samples /etc/edged/topology.yaml
        dpkg --purge edged > /dev/null 2>&1
        find / -xdev -name edged ! -path '/var/lib/dpkg/*'
        find /var/lib/edged /var/cache/edged -mindepth 1
    """)
    kept = ("/var/lib/edged", "/var/cache/edged", "/var/cache/edged/disk", "/var/cache/edged/disk/photos")
    assert sorted(left.split()) == sorted(kept)


@each_suite
def test_the_archives_package_adds_parquet_and_every_module_left_can_be_imported(system, suite):
    root = system(suite, roots.debian(suite), "amd64")
    root.run("cd / && apt install --yes ./edged_*.deb")
    assert "pyarrow" not in root.run(f"ls {SITE}")
    root.run("cd / && apt install --yes ./edged-archive_*.deb")
    imported = root.run(f"cd /tmp; /usr/lib/edged/bin/python3 -P -c '{IMPORT_ALL}'").split()
    assert {"pyarrow._parquet", "numpy.linalg._umath_linalg", "cramjam.cramjam"} <= set(imported)
    root.run("dpkg --remove edged", expect=1)
    root.run("dpkg --remove edged-archive && edged --version")


@each_suite
def test_a_pi_installs_uses_and_removes_the_package(system, suite, tmp_path):
    """Emulated. Its dependencies are there, but not configured."""
    root = system(suite, arm_files(suite, tmp_path / "arm64", ARM_PACKAGES, roots.MIRROR), "arm64", PI)
    root.run("mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates && touch /var/lib/dpkg/status")
    root.run("cd / && dpkg --force-depends --install edged_*.deb")
    assert state(root) == "i"
    for example in root.run("ls /usr/share/doc/edged/examples/*.yaml").split():
        root.run(f"edged check {example}")
    assert root.run(f"/usr/lib/edged/bin/python3 -P -c '{TRY_RUNTIME}'") == f"{RUNTIMES[suite]} xnnpack compiled \n"
    assert "numpy.linalg._umath_linalg" in root.run(f"cd /tmp; /usr/lib/edged/bin/python3 -P -c '{IMPORT_ALL}'")
    root.run("dpkg --force-depends --purge edged")
    root.run("test ! -e /usr/lib/edged")


def test_a_32_bit_system_refuses_the_package_with_the_reason(system, tmp_path):
    root = system("bookworm", roots.debian("bookworm"), "amd64")
    root.run("printf '#!/bin/sh\\necho i386\\n' > /usr/local/bin/dpkg && chmod +x /usr/local/bin/dpkg")
    printed = root.run("cd / && dpkg-deb --info edged_*.deb > /dev/null; /usr/bin/dpkg --install edged_*.deb", expect=1)
    assert "not supported on 32-bit systems, and this one is i386" in printed
    root.run("test ! -e /usr/lib/edged")
