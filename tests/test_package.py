"""What the Debian packages are made of is pinned, would load where it is installed, and gives the same bytes each time.

The packages themselves are made, installed and removed in `tests/slow/test_package.py`.
"""

import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from edged.adapters.kernels.build import ZIGLANG
from systemd.package import deb, libraries, tree, wheels
from systemd.package.suites import MACHINES, SUITES, Suite
from tests.support.pages import ROOT
from tests.support.requirements import require

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = sorted(deb.SCRIPTS.iterdir())

each_suite = pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)


@dataclass
class Pin:
    name: str
    version: str
    digests: int


def pins(file: str) -> dict[str, Pin]:
    """By name, as pip compares names."""
    text = (wheels.PINS / file).read_text()
    found = re.findall(r"^([\w.-]+)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", text, re.MULTILINE)
    assert len(found) == text.count("==")
    return {name: Pin(name, version, digests.count("sha256:")) for name, version, digests in found}


# what is pinned


@each_suite
def test_the_pins_are_versions_that_edged_asks_for(suite):
    """All of its dependencies, MQTT's and the archive's, for the suite's Python. If not: `systemd.package.lock`."""
    found = pins(f"{suite.name}.txt")
    environment = {"python_version": suite.python_version, "sys_platform": "linux", "extra": ""}
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(text) for text in PROJECT["dependencies"] + extras["mqtt"] + extras["archive"]]
    asked = [each for each in asked if each.marker is None or each.marker.evaluate(environment)]
    wrong = [str(each) for each in asked if not each.specifier.contains(found[each.name].version)]
    assert len(asked) > 13
    assert wrong == []


@each_suite
def test_an_edge_may_be_a_bridge_to_mqtt_without_another_package(suite):
    of_edged = (wheels.PINS / f"{suite.name}.txt").read_text().partition("# edged-archive\n")[0]
    assert "\npaho-mqtt==" in of_edged


@each_suite
def test_numpy_is_pinned_for_both_architectures(suite):
    assert pins(f"{suite.name}.txt")["numpy"].digests == len(MACHINES)


def test_the_compiler_pinned_is_the_one_of_the_published_wheels():
    assert pins("build.txt")["ziglang"].version == ZIGLANG


# what is looked at in libraries


@pytest.fixture
def compiler() -> str:
    return shutil.which("cc") or require("cc (Debian: gcc libc6-dev)")


def compile_library(compiler: str, path: Path, *options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "#include <stdlib.h>\nint probe(void) { return rand(); }\n"
    command: list[str | Path] = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-x", "none", *options, "-o", path]
    subprocess.run(command, input=source, text=True, check=True, cwd=path.parent)


def test_a_library_names_the_packages_that_it_needs(compiler, tmp_path):
    compile_library(compiler, tmp_path / "a.so", "-Wl,--no-as-needed", "-l:libgcc_s.so.1")
    (tmp_path / "text").write_text("no library")
    first, *others = libraries.dependencies(tmp_path, SUITES["bookworm"], "amd64")
    assert re.fullmatch(r"libc6 \(>= 2\.\d+\)", first)
    assert others == ["libgcc-s1"]


def test_a_library_that_pages_of_16_kib_refuse_is_refused_for_arm(compiler, tmp_path):
    compile_library(compiler, tmp_path / "vendor" / "a.so", "-Wl,-z,max-page-size=4096")
    libraries.dependencies(tmp_path, SUITES["bookworm"], "amd64")
    with pytest.raises(libraries.Unfit, match=r"^vendor/a\.so: aligned to 4096 bytes, which pages of 16384 refuse$"):
        libraries.dependencies(tmp_path, SUITES["bookworm"], "arm64")


def test_pages_of_16_kib_take_larger_alignments(compiler, tmp_path):
    compile_library(compiler, tmp_path / "a.so", "-Wl,-z,max-page-size=65536")
    libraries.dependencies(tmp_path, SUITES["bookworm"], "arm64")


def test_a_library_of_a_newer_glibc_than_the_suites_is_refused(compiler, tmp_path):
    compile_library(compiler, tmp_path / "a.so")
    old = Suite("ancient", 1, (3, 11), (2, 1))
    with pytest.raises(libraries.Unfit, match=r"^a\.so: needs glibc 2[.0-9]+, and ancient has 2\.1$"):
        libraries.dependencies(tmp_path, old, "amd64")


def test_a_library_that_needs_one_that_was_left_out_is_refused_and_so_are_all_others(compiler, tmp_path):
    compile_library(compiler, tmp_path / "libvendor.so", "-Wl,-soname,libvendor.so")
    for name in ("a.so", "b.so"):
        compile_library(compiler, tmp_path / name, "-Wl,--no-as-needed", "libvendor.so")
    libraries.dependencies(tmp_path, SUITES["bookworm"], "amd64")
    (tmp_path / "libvendor.so").unlink()
    with pytest.raises(libraries.Unfit) as refused:
        libraries.dependencies(tmp_path, SUITES["bookworm"], "amd64")
    assert str(refused.value).splitlines() == [
        f"{name}: needs libvendor.so, which nothing brings" for name in ("a.so", "b.so")
    ]


# what is left out


def test_what_never_serves_is_left_out_with_its_folders(tmp_path):
    kept = [
        "numpy/core/multiarray.py",
        "numpy/core/_multiarray_tests.so",
        "edged/adapters/kernels/kernels.c",
        "tests_of_life.py",
    ]
    gone = ["numpy/core/tests/deep/test_a.py", "numpy/f2py/a.py", "a-1.dist-info/RECORD", "PIL/_avif.so"]
    for name in kept + gone:
        tree.write(tmp_path / name, "")
    wheels.leave_out(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in wheels.files(tmp_path)} == set(kept)
    assert not (tmp_path / "numpy/core/tests").exists()
    assert not (tmp_path / "PIL").exists()


# the package


@pytest.fixture
def dpkg() -> str:
    return shutil.which("dpkg-deb") or require("dpkg-deb (Debian: dpkg)")


def pack(folder: Path, *, umask: int = 0o022, backwards: bool = False) -> Path:
    """A small package, made below `folder`."""
    before = os.umask(umask)
    try:
        for name in sorted(("usr/lib/edged/a.py", "usr/lib/edged/b.py"), reverse=backwards):
            tree.write(folder / "tree" / name, name)
        tree.write(folder / "tree/usr/lib/edged/bin/edged", "#!/bin/sh\n", 0o755)
        fields = {"Version": "1+deb12", "Architecture": "amd64"}
        deb.make(folder / "tree", "edged", SUITES["bookworm"], fields, 1_700_000_000, folder / "a.deb", quick=False)
    finally:
        os.umask(before)
    return folder / "a.deb"


def test_the_same_files_give_the_same_bytes_whatever_the_umask_and_the_hour(dpkg, tmp_path):
    first = pack(tmp_path / "first")
    second = pack(tmp_path / "second", umask=0o077, backwards=True)
    assert first.read_bytes() == second.read_bytes()


def test_all_files_are_roots_readable_and_their_digests_are_listed(dpkg, tmp_path):
    package = pack(tmp_path, umask=0o077)
    listed = subprocess.run([dpkg, "--contents", package], check=True, capture_output=True, text=True).stdout
    modes = {line.split()[0] for line in listed.splitlines()}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}
    assert {line.split()[1] for line in listed.splitlines()} == {"root/root"}
    subprocess.run([dpkg, "--control", package, tmp_path / "control"], check=True)
    digests = (tmp_path / "control" / "md5sums").read_text()
    subprocess.run(["md5sum", "--check"], input=digests, cwd=tmp_path / "tree", text=True, check=True)


@each_suite
def test_the_units_are_in_the_systems_place_and_start_the_packages_program(suite, tmp_path):
    tree.lay_out(tmp_path, suite, 1_700_000_000)
    units = tmp_path / "usr/lib/systemd/system"
    for name, command in (("edged@.service", "run"), ("edged-infer@.service", "infer")):
        text = (units / name).read_text()
        assert f"\nExecStart=/usr/bin/edged {command} /etc/edged/topology.yaml --node %i\n" in text
        assert "/opt/" not in text
        drop_ins = [path.name for path in (units / f"{name}.d").glob("*")]
        assert drop_ins == (["systemd-254.conf"] if suite.name == "trixie" else [])
    assert (tmp_path / "usr/bin/edged").resolve() == tmp_path / "usr/lib/edged/bin/edged"
    assert (tmp_path / "usr/share/man/man1/edged.1.gz").exists()
    assert (tmp_path / "usr/share/bash-completion/completions/edged").exists()
    assert list((tmp_path / "etc/edged").iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_of_posix_shell(script):
    shell = shutil.which("dash") or require("dash (Debian: dash)")
    subprocess.run([shell, "-n", script], check=True)
    assert script.read_text().startswith("#!/bin/sh\nset -e\n")


def run_script(name: str, argument: str, folder: Path, refusing: str) -> subprocess.CompletedProcess[str]:
    """Run one as dpkg does, on a machine where this command fails and all that it calls is written to `called`."""
    for program in ("systemctl", "systemd-sysusers", "py3compile", "py3clean"):
        status = 1 if program == refusing else 0
        tree.write(folder / program, f'#!/bin/sh\necho {program} "$@" >> {folder}/called\nexit {status}\n', 0o755)
    script = (deb.SCRIPTS / name).read_text().replace("/run/systemd/system", str(folder))
    return subprocess.run(
        ["sh", "-c", script, name, argument],
        env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("argument", ["configure", "triggered"])
def test_a_node_that_does_not_come_up_again_leaves_the_package_installed(tmp_path, argument):
    """Also after an upgrade of the archive's package alone."""
    done = run_script("edged.postinst", argument, tmp_path, "systemctl")
    assert done.returncode == 0, done.stderr
    assert "systemctl try-restart edged@*.service edged-infer@*.service" in (tmp_path / "called").read_text()


@pytest.mark.parametrize("package", ["edged", "edged-archive"])
def test_a_python_that_is_half_upgraded_does_not_keep_a_package(tmp_path, package):
    done = run_script(f"{package}.prerm", "remove", tmp_path, "py3clean")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["edged", "edged-archive"])
def test_an_upgrade_that_is_given_up_compiles_again_what_it_had_cleared(tmp_path, package):
    run_script(f"{package}.postinst", "abort-upgrade", tmp_path, "")
    assert (tmp_path / "called").read_text() == f"py3compile -p {package} -V @PYTHON@ /usr/lib/edged\n"


@each_suite
def test_neither_package_asks_that_the_other_is_not_newer(suite):
    """Or an upgrade of one alone, by hand or unattended, would remove the other."""
    assert not any("edged" in each for each in deb.needs("edged", "2+deb12", suite))
    [of_edged] = [each for each in deb.needs("edged-archive", "2+deb12", suite) if "edged" in each]
    assert of_edged == "edged (>= 2+deb12)"


@each_suite
def test_the_packages_have_no_folder_for_wheels_in_common(suite, tmp_path):
    """Each may be newer than the other, and bring what the other brought before."""
    tree.lay_out(tmp_path, suite, 1_700_000_000)
    of_edged, of_archive = (tree.site(tmp_path, package, suite) for package in ("edged", "edged-archive"))
    assert not of_archive.is_relative_to(of_edged)
    assert not of_edged.is_relative_to(of_archive)
    assert (of_edged / "edged-archive.pth").read_text() == f"/{of_archive.relative_to(tmp_path)}\n"


def test_debian_has_versions_in_the_order_that_python_has(dpkg):
    versions = ["0.2.0.dev1", "0.2.0a1", "0.2.0b2.dev3", "0.2.0b2", "0.2.0rc1", "0.2.0", "0.2.0.post1", "0.2.1.dev1"]
    assert versions == sorted(versions, key=Version)
    of_debian = [deb.version_of(Path(f"edged-{each}-py3-none-any.whl"), SUITES["bookworm"]) for each in versions]
    for older, newer in pairwise(of_debian):
        subprocess.run([dpkg.removesuffix("-deb"), "--compare-versions", older, "lt", newer], check=True)


def run_preinst(
    folder: Path, *, system: str = "arm64", python: str = "3.11.2-1+b1", free_kib: int = 300 << 10, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the packages' as dpkg does, on a system of this architecture, with this Python and so much room."""
    for program, printed in (("dpkg", system), ("dpkg-query", python), ("df", f"Avail\n{free_kib}")):
        tree.write(folder / program, f"#!/bin/sh\nprintf '%s\\n' '{printed}'\n", 0o755)
    script = (deb.SCRIPTS / "each.preinst").read_text().replace("@PYTHON@", "3.11").replace("@NEEDED_MIB@", "100")
    return subprocess.run(
        ["sh", "-c", script, "preinst", "install"],
        env={"PATH": f"{folder}:/usr/bin:/bin", "DPKG_MAINTSCRIPT_ARCH": "arm64"} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("system", "is_32_bit"), [("armhf", True), ("i386", True), ("amd64", False), ("arm64", None)])
def test_another_architectures_package_is_refused_with_the_reason(tmp_path, system, is_32_bit):
    """Also where the kernel is a 64-bit one, and dpkg takes packages for it."""
    done = run_preinst(tmp_path, system=system)
    assert done.returncode == (0 if is_32_bit is None else 1)
    assert (f"is for arm64, and this system is {system} " in done.stderr) == (is_32_bit is not None)
    assert ("not supported on 32-bit systems" in done.stderr) == bool(is_32_bit)


@pytest.mark.parametrize("python", ["3.13.5-1", "3.1.3-1", "3.110.0-1"])
def test_another_releases_package_is_refused_before_a_file_is_replaced(tmp_path, python):
    done = run_preinst(tmp_path, python=python)
    assert done.returncode == 1
    assert f"is for Python 3.11, and this system has {python}. Take the one for this release of Debian" in done.stderr


@pytest.mark.parametrize(("python", "of_apt"), [("", {}), ("3.13.5-1", {"DPKG_FRONTEND_LOCKED": "true"})])
def test_the_order_in_which_apt_unpacks_is_its_own(tmp_path, python, of_apt):
    """It may unpack a package before the Python that this needs: on an empty system, and in an upgrade of all."""
    done = run_preinst(tmp_path, python=python, **of_apt)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("free_kib", "fits"), [(100 << 10, True), ((100 << 10) - 1, False), (0, False)])
def test_a_disk_with_too_little_room_is_told_before_a_file_is_replaced(tmp_path, free_kib, fits):
    done = run_preinst(tmp_path, free_kib=free_kib)
    assert done.returncode == (0 if fits else 1)
    assert (f"needs 100 MiB on the file system of /usr, and {free_kib >> 10} MiB are free" in done.stderr) != fits


@pytest.mark.parametrize("package", ["edged", "edged-archive"])
@pytest.mark.parametrize(("argument", "status"), [("configure", 1), ("abort-upgrade", 0)])
def test_a_version_that_stays_on_a_full_disk_is_installed_whole_and_a_new_one_says_what_to_do(
    tmp_path, package, argument, status
):
    done = run_script(f"{package}.postinst", argument, tmp_path, "py3compile")
    assert done.returncode == status
    assert "Make room, and then: apt install --reinstall edged" in done.stderr


def test_the_room_that_a_package_asks_for_is_that_of_its_files_and_of_what_is_compiled(dpkg, tmp_path):
    tree.write(tmp_path / "tree/usr/lib/edged/large.py", "#" * (3 << 20))
    tree.write(tmp_path / "tree/usr/lib/edged/large.so", "#" * (2 << 20))
    package = pack(tmp_path)
    subprocess.run([dpkg, "--control", package, tmp_path / "control"], check=True)
    assert "-lt 9 ]" in (tmp_path / "control" / "preinst").read_text()
