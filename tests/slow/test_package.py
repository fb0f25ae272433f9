"""The Debian packages: their sizes, the same bytes twice, and a life in Debian's systems, installed, upgraded, removed.

See `tests/test_package.py` for their parts, and `tests/slow/booted` for nodes that run from them.
"""

import functools
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from systemd.package import wheels
from systemd.package.__main__ import build
from systemd.package.suites import MACHINES, SUITES
from tests.support.booted import roots
from tests.support.debian_root import ARM_PACKAGES, PI, DebianRoot, arm_files
from tests.support.requirements import require

MAX_BYTES = 25_000_000
SITE = "/usr/lib/edged/lib/python3*/site-packages"
SITES = f"{SITE} /usr/lib/edged/archive"
RUNTIMES = {"bookworm": "tflite-runtime", "trixie": "ai-edge-litert"}
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

IMPORT_ALL = f"""
import importlib, pathlib, sys
root = pathlib.Path("/")
sites = [site for pattern in "{SITES}".split() for site in root.glob(pattern[1:])]
libraries = [(site, path) for site in sites for path in sorted(site.rglob("*.so")) if ".libs" not in str(path)]
for site, path in libraries:
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

PI_5 = "QEMU_CPU=cortex-a76 QEMU_PAGESIZE=16384"
"""A Pi 5's processor and pages, which ld.so compares with the alignment of each library that it loads."""

ROWS_TOPOLOGY = """\
schema: 1
site: pi
kafka: {bootstrap: ["127.0.0.1:9092"]}
streams:
  rows: {sample: {shape: [2], dtype: float32}, labels: [0, 1]}
iot: [{name: probe, edge: pi-a, stream: rows}]
edges: [{name: pi-a}]
archive: [{name: vault, url: "file:///srv/edged"}]
training: {stream: rows, model: [{dense: 2}]}
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
        dpkg --install /edged_*.deb > /dev/null 2>&1
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
    root.run("test ! -e /usr/lib/edged/archive")
    root.run("cd / && apt install --yes ./edged-archive_*.deb")
    imported = root.run(f"cd /tmp; /usr/lib/edged/bin/python3 -P -c '{IMPORT_ALL}'").split()
    assert {"pyarrow._parquet", "numpy.linalg._umath_linalg", "cramjam.cramjam"} <= set(imported)
    root.run("dpkg --remove edged", expect=1)
    root.run("dpkg --remove edged-archive && edged --version")


@pytest.fixture(scope="module")
def newer(packages, tmp_path_factory) -> Callable[[str], list[Path]]:
    """Makes a suite's packages of another edged, once: the same files, and another version."""
    made: dict[str, list[Path]] = {}

    def newer_of(suite: str) -> list[Path]:
        if suite not in made:
            folder = tmp_path_factory.mktemp(f"newer-{suite}")
            made[suite] = [renumbered(file, folder) for file in packages(suite, "amd64")]
        return made[suite]

    return newer_of


def renumbered(file: Path, folder: Path) -> Path:
    """A package as of version 0.9."""
    tree, result = folder / "tree", folder / file.name.replace("_0.1.0", "_0.9.0")
    subprocess.run(["dpkg-deb", "--raw-extract", file, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("0.1.0+deb", "0.9.0+deb"))
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, result], check=True)
    shutil.rmtree(tree)
    return result


def offer(root: DebianRoot, files: Sequence[Path]) -> None:
    """Let apt's sources have these packages."""
    folder = root.file("/repository")
    folder.mkdir(parents=True, exist_ok=True)
    index = ""
    for file in files:
        shutil.copy(file, folder)
        control = subprocess.run(["dpkg-deb", "--field", file], check=True, capture_output=True, text=True).stdout
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        index += f"{control}Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n\n"
    (folder / "Packages").write_text(index)
    (folder / "Release").write_text("Origin: edged\nSuite: edged\n")
    sources = root.file("/etc/apt/sources.list.d")
    sources.mkdir(parents=True, exist_ok=True)
    (sources / "edged.list").write_text("deb [trusted=yes] file:/repository ./\n")
    root.run("apt-get update -o Dir::Etc::SourceList=/dev/null")


def versions(root: DebianRoot) -> list[str]:
    """Of the packages that are installed whole: edged's, then the archive's."""
    shown = "${db:Status-Abbrev} ${Version}\\n"
    lines = root.run(f"dpkg-query -W -f '{shown}' edged edged-archive || true").splitlines()
    return [line.split()[1].partition("+")[0] for line in lines if line.startswith("ii ")]


IMPORTS = "/usr/lib/edged/bin/python3 -P -c 'import pyarrow.parquet, edged.adapters.parquet.store'"


@each_suite
@pytest.mark.parametrize(
    ("command", "offered", "expected"),
    [
        ("apt-get install --yes /repository/edged_0.9*.deb", 2, ["0.9.0", "0.1.0"]),
        ("apt-get install --yes edged", 2, ["0.9.0", "0.1.0"]),
        ("apt-get install --yes edged-archive", 2, ["0.9.0", "0.9.0"]),
        ("apt-get upgrade --yes", 2, ["0.9.0", "0.9.0"]),
        ("apt-get upgrade --yes", 1, ["0.9.0", "0.1.0"]),
    ],
    ids=["edged's file", "edged by name", "the archive's by name", "all", "all, where only edged's is there yet"],
)
def test_an_upgrade_of_one_package_does_not_remove_the_other(system, newer, suite, command, offered, expected):
    root = system(suite, roots.debian(suite), "amd64")
    root.run("cd / && dpkg --install edged_*.deb edged-archive_*.deb")
    offer(root, newer(suite)[:offered])
    root.run(f"{command} -o Dir::Etc::SourceList=/dev/null")
    assert versions(root) == expected
    root.run(IMPORTS)


def test_the_archives_file_alone_is_refused_and_nothing_is_removed(system, newer):
    root = system("bookworm", roots.debian("bookworm"), "amd64")
    root.run("cd / && dpkg --install edged_*.deb edged-archive_*.deb")
    shutil.copy(newer("bookworm")[1], root.file("/newer.deb"))
    assert "Depends: edged (>= 0.9.0" in root.run("apt-get install --yes /newer.deb", expect=100)
    assert versions(root) == ["0.1.0", "0.1.0"]


@each_suite
def test_another_releases_packages_are_refused_before_a_file_is_replaced(system, packages, suite):
    root = system(suite, roots.debian(suite), "amd64")
    root.run("cd / && dpkg --install edged_*.deb edged-archive_*.deb")
    (other,) = SUITES.keys() - {suite}
    root.file("/other").mkdir()
    for file in packages(other, "amd64"):
        shutil.copy(file, root.file("/other"))
        printed = root.run(f"dpkg --install /other/{file.name}", expect=1)
        assert "Take the one for this release of Debian" in printed
    assert versions(root) == ["0.1.0", "0.1.0"]
    assert root.run("dpkg --verify edged edged-archive") == ""
    root.run(IMPORTS)


def compile_for_pages_of_4_kib(library: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-gcc") or require(
        "no aarch64-linux-gnu-gcc: apt install gcc-aarch64-linux-gnu"
    )
    command: list[str | Path] = [compiler, "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-o", library]
    text = "int probe(void) { return 0; }"
    subprocess.run([*command, "-Wl,-z,max-page-size=4096"], input=text, text=True, check=True)


@pytest.fixture(scope="module")
def arm(tmp_path_factory) -> Callable[[str], Path]:
    """The files of a suite's system for a Pi, whose packages are there, but not configured."""

    @functools.cache
    def arm_of(suite: str) -> Path:
        folder = tmp_path_factory.mktemp(f"arm64-{suite}") / "files"
        files = arm_files(suite, folder, ARM_PACKAGES, roots.MIRROR)
        for made in ("info", "updates"):
            (files / "var/lib/dpkg" / made).mkdir(parents=True, exist_ok=True)
        (files / "var/lib/dpkg/status").touch()
        return files

    return arm_of


@each_suite
def test_a_pi_installs_uses_and_removes_the_package(system, arm, suite):
    """Emulated."""
    root = system(suite, arm(suite), "arm64", PI)
    root.run("cd / && dpkg --force-depends --install edged_*.deb")
    assert state(root) == "i"
    for example in root.run("ls /usr/share/doc/edged/examples/*.yaml").split():
        root.run(f"edged check {example}")
    compile_for_pages_of_4_kib(root.file("/small-pages.so"))
    load = "python3 -c 'import ctypes; ctypes.CDLL(\"/small-pages.so\")'"
    root.run(load)
    assert "not page-aligned" in root.run(f"{PI_5} {load}", expect=1)
    for pi in ("", PI_5):
        python = f"{pi} /usr/lib/edged/bin/python3 -P -c"
        assert root.run(f"{python} '{TRY_RUNTIME}'") == f"{RUNTIMES[suite]} xnnpack compiled \n"
        assert "numpy.linalg._umath_linalg" in root.run(f"cd /tmp; {python} '{IMPORT_ALL}'")
    root.run("dpkg --force-depends --purge edged")
    root.run("test ! -e /usr/lib/edged")


@each_suite
def test_a_pi_installs_the_archives_package_and_keeps_samples_in_it(system, arm, suite):
    """Emulated. A row for each of 100 samples, imported and read back."""
    root = system(suite, arm(suite), "arm64", PI)
    root.run("cd / && dpkg --force-depends --install edged_*.deb && dpkg --force-depends --install edged-archive_*.deb")
    assert versions(root) == ["0.1.0", "0.1.0"]
    root.file("/topology.yaml").write_text(ROWS_TOPOLOGY)
    rows = (f"{i % 2},{i / 4},{-i}\n" for i in range(100))
    root.file("/rows.csv").write_text("".join(["label,x,y\n", *rows]))
    for pi in ("", PI_5):
        imported = root.run(f"cd /tmp; {pi} /usr/lib/edged/bin/python3 -P -c '{IMPORT_ALL}'").split()
        assert {"pyarrow._parquet", "numpy.linalg._umath_linalg", "cramjam.cramjam"} <= set(imported)
        edged = f"cd /tmp; {pi} edged archive"
        root.run("rm -rf /srv/edged")
        account = json.loads(root.run(f"{edged} import --from /rows.csv --json /topology.yaml 2> /dev/null"))
        assert account["splits"] == {"all": 100}
        assert "all is well" in root.run(f"{edged} verify /topology.yaml")
    root.run("dpkg --force-depends --purge edged-archive")
    root.run("test ! -e /usr/lib/edged/archive && edged --version && test -e /srv/edged/edged-archive.json")


def test_a_32_bit_system_refuses_the_package_with_the_reason(system, tmp_path):
    root = system("bookworm", roots.debian("bookworm"), "amd64")
    root.run("printf '#!/bin/sh\\necho i386\\n' > /usr/local/bin/dpkg && chmod +x /usr/local/bin/dpkg")
    printed = root.run("cd / && dpkg-deb --info edged_*.deb > /dev/null; /usr/bin/dpkg --install edged_*.deb", expect=1)
    assert "and this system is i386 " in printed
    assert "not supported on 32-bit systems" in printed
    root.run("test ! -e /usr/lib/edged")
