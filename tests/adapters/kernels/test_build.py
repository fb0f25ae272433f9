import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edged.adapters.kernels import build, library
from edged.adapters.kernels.library import ABI
from tests.support.kernel_builds import load_best
from tests.support.requirements import require

ROOT = Path(__file__).parents[3]
SMALL = f"""
#include <stdint.h>
#define EXPORT __attribute__((visibility("default")))
EXPORT int edged_kernels_abi(void) {{ return {ABI}; }}
EXPORT const char *edged_kernels_source(void) {{ return EDGED_SOURCE; }}
EXPORT int64_t edged_kernels_sizeof(int which) {{ return which; }}
EXPORT int edged_kernels_run_here(void) {{ return 1; }}
"""
NO_COMPILERS = {
    "none on the PATH": {"PATH": "/nonexistent", "CC": ""},
    "none by that name": {"CC": "/nonexistent/cc"},
    "no command": {"CC": "'cc"},
    "one that fails": {"CC": "false"},
    "one that makes nothing": {"CC": "true"},
}


@pytest.fixture
def needs_a_compiler():
    try:
        build.own_compiler(build.machine())
    except build.NotBuilt as reason:
        require(str(reason))


def project(folder: Path) -> Path:
    """A copy of this project with small kernels."""
    shutil.copytree(
        ROOT / "edged", folder / "edged", ignore=shutil.ignore_patterns("__pycache__", "*.so", build.WHY_NOT, "data")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "edged" / "adapters" / "kernels" / "kernels.c").write_text(SMALL)
    return folder


def kernels_in(folder: Path) -> Path:
    return folder / "edged" / "adapters" / "kernels"


def build_of(folder: Path):
    """The module `build` of a copy, loaded by its path as hatchling does."""
    spec = importlib.util.spec_from_file_location("build_of_the_copy", folder / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path):
    """The folder of the kernels alone, with small ones."""
    shutil.copy(build.__file__, tmp_path)
    (tmp_path / "kernels.c").write_text(SMALL)
    return tmp_path


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def hatchling(what: str, folder: Path, out: Path, **environment: str) -> str:
    """What it says when pip asks it for that."""
    out.mkdir(exist_ok=True)
    code = f"from hatchling.build import {what}; {what}({str(out)!r})"
    return said_by([sys.executable, "-c", code], cwd=folder, env=os.environ | environment)


def said_by(command: list[str | Path], **options: Any) -> str:
    done = subprocess.run(command, **options, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said: str = done.stdout
    assert done.returncode == 0, said
    return said


def wheel_in(out: Path) -> zipfile.ZipFile:
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


def names(wheel: zipfile.ZipFile) -> set[str]:
    prefix = "edged/adapters/kernels/"
    return {name.removeprefix(prefix) for name in wheel.namelist() if name.startswith(prefix)}


def tag(wheel: zipfile.ZipFile) -> str:
    assert wheel.filename
    return "-".join(Path(wheel.filename).stem.split("-")[2:])


def test_a_wheel_has_the_kernels_and_its_true_tag(needs_a_compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "STRUCTS", ())
    folder = project(tmp_path / "project")
    (kernels_in(folder) / "kernels-of-yesterday.so").write_text("left behind")
    (kernels_in(folder) / build.WHY_NOT).write_text("left behind")

    hatchling("build_wheel", folder, tmp_path / "out")

    wheel = wheel_in(tmp_path / "out")
    here = build.machine()
    assert tag(wheel) == f"py3-none-linux_{here}"
    libraries = {variant.file for variant in build.VARIANTS[here]}
    assert {name for name in names(wheel) if name.endswith(".so")} == libraries
    assert names(wheel) >= {"kernels.c", "build.py", "library.py"}
    assert build.WHY_NOT not in names(wheel)
    wheel.extractall(tmp_path / "installed")
    assert load_best(kernels_in(tmp_path / "installed")).edged_kernels_abi() == ABI


def test_pip_installs_without_a_compiler_and_a_line_says_how_to_get_the_kernels(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-index"]
    without = os.environ | {"PATH": "/nonexistent", "CC": ""}

    said = said_by([*command, "--wheel-dir", tmp_path, project(tmp_path / "project")], env=without)

    wheel = wheel_in(tmp_path)
    assert tag(wheel) == "py3-none-any"
    assert not any(name.endswith(".so") for name in names(wheel))
    assert "kernels.c" in names(wheel)
    (line,) = [line for line in said.splitlines() if "no compiled kernels" in line]
    assert build.REMEDY in line
    why = wheel.read(f"edged/adapters/kernels/{build.WHY_NOT}").decode()
    assert why == "`cc` cannot be started: No such file or directory"


@pytest.mark.parametrize("environment", NO_COMPILERS.values(), ids=NO_COMPILERS.keys())
def test_what_is_no_compiler_is_not_used(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(build.NotBuilt):
        build.own_compiler(build.machine())


def test_kernels_that_do_not_compile_are_a_line_and_a_pure_wheel(needs_a_compiler, tmp_path):
    folder = project(tmp_path / "project")
    (kernels_in(folder) / "kernels.c").write_text("int broken(\n")

    said = hatchling("build_wheel", folder, tmp_path / "out")

    assert tag(wheel_in(tmp_path / "out")) == "py3-none-any"
    assert "error: expected" in next(line for line in said.splitlines() if "no compiled kernels" in line)


def test_an_editable_installation_has_the_kernels_beside_their_source(needs_a_compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "STRUCTS", ())
    folder = project(tmp_path / "project")

    hatchling("build_editable", folder, tmp_path / "out")

    assert load_best(kernels_in(folder)).edged_kernels_abi() == ABI


def test_an_editable_installation_without_a_compiler_says_so(tmp_path):
    folder = project(tmp_path / "project")

    said = hatchling("build_editable", folder, tmp_path / "out", CC="false")

    assert "no compiled kernels" in said
    assert not list(kernels_in(folder).glob("*.so"))
    assert (kernels_in(folder) / build.WHY_NOT).read_text() == "`false` failed with status 1: it said nothing"


def test_what_compiles_later_takes_the_reason_away(needs_a_compiler, copy, monkeypatch):
    module = build_of(copy)
    with monkeypatch.context() as without:
        without.setenv("CC", "false")
        module.build_or_note(copy)
    assert (copy / build.WHY_NOT).exists()

    libraries, lines = module.build_or_note(copy)

    assert (len(libraries), lines) == (len(build.VARIANTS[build.machine()]), [])
    assert not (copy / build.WHY_NOT).exists()


def test_a_reason_that_cannot_be_left_fails_nobody(monkeypatch):
    monkeypatch.setenv("CC", "false")
    assert build.build_or_note(Path("/proc"))[0] == []


def test_a_published_wheel_is_not_made_by_another_compiler_than_the_pinned_one(tmp_path):
    """A publisher is told; nothing but the pinned one makes what its tag promises."""
    folder = project(tmp_path / "project")
    pinned = (kernels_in(folder) / "build.py").read_text().replace(build.ZIGLANG, "0.0.1")
    (kernels_in(folder) / "build.py").write_text(pinned)

    done = subprocess.run(
        [sys.executable, "-c", f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"],
        cwd=folder,
        env=os.environ | {build.PUBLISHED: "aarch64"},
        text=True,
        capture_output=True,
        check=False,
    )

    assert done.returncode != 0
    assert "published wheels are compiled by ziglang 0.0.1" in done.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_a_checkout_compiles_by_one_command_without_pip(needs_a_compiler, copy):
    done = subprocess.run([sys.executable, "build.py"], cwd=copy, text=True, capture_output=True, check=True)

    assert done.stdout.split() == [str(copy / variant.file) for variant in build.VARIANTS[build.machine()]]


def test_the_command_fails_where_nothing_compiles(copy):
    done = subprocess.run(
        [sys.executable, "build.py"], cwd=copy, env={"CC": "false"}, text=True, capture_output=True, check=False
    )

    assert done.returncode == 1
    assert build.REMEDY in done.stderr


def test_a_compilation_that_fails_leaves_the_library_of_before_whole(needs_a_compiler, copy):
    module = build_of(copy)
    libraries, _ = module.build(copy)
    before = [path.read_bytes() for path in libraries]
    (copy / "kernels.c").write_text("int broken(\n")

    with pytest.raises(module.NotBuilt, match="error: expected"):
        module.build(copy)

    assert [path.read_bytes() for path in libraries] == before
    assert sorted(copy.glob("*.so")) == sorted(libraries)


def test_a_library_in_use_is_replaced_and_not_written_into(needs_a_compiler, copy):
    module = build_of(copy)
    (first, *_), _ = module.build(copy)

    with first.open("rb") as in_use:
        module.build(copy)

        assert os.fstat(in_use.fileno())[stat.ST_NLINK] == 0


def test_one_variant_that_does_not_compile_is_told_and_the_others_are_there(needs_a_compiler, copy, monkeypatch):
    module = build_of(copy)
    here = module.machine()
    good = module.VARIANTS[here][-1]
    bad = good._replace(file="kernels-of-tomorrow.so", cc="-march=tomorrow")
    monkeypatch.setitem(module.VARIANTS, here, (bad, good))

    libraries, problems = module.build(copy)

    assert libraries == [copy / good.file]
    assert len(problems) == 1
    assert problems[0].startswith("kernels-of-tomorrow.so: `cc` failed")


def test_a_compiler_for_another_machine_is_not_used(copy, monkeypatch):
    """As where a 64-bit kernel runs a 32-bit system, or CC is a cross compiler."""
    header = r"printf '\177ELF\001\001\001\000\000\000\000\000\000\000\000\000\003\000\050\000'"
    other = script(copy / "armv7-cc", f'while [ "$1" != -o ]; do shift; done; {header} > "$2"')
    monkeypatch.setenv("CC", other)

    with pytest.raises(build.NotBuilt, match="armv7-cc` makes no libraries for"):
        build.own_compiler(build.machine())


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    hanging = script(tmp_path / "cc", f"sleep infinity > {alive} & wait")
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(build.NotBuilt, match="cc` did not end in 1 s"):
            build.run([hanging], 1)

        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""  # the end: nobody has it open any more
    finally:
        os.close(reader)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_compiled(tmp_path, monkeypatch):
    compiler = script(tmp_path / "cc", f"touch {tmp_path / 'begun'}")
    monkeypatch.setattr(build, "own_compiler", lambda _machine: [compiler])

    with pytest.raises(build.NotBuilt, match="kernels-"):
        build.build(Path("/proc"))

    assert not (tmp_path / "begun").exists()


def test_variants_are_compiled_at_the_same_time(tmp_path, monkeypatch):
    """Each of two compilers ends when it has met the other."""
    os.mkfifo(tmp_path / "meeting")
    meet = f'case "$*" in *-first*) echo met > {tmp_path}/meeting;; *) read met < {tmp_path}/meeting;; esac'
    compiler = script(tmp_path / "cc", f'{meet}\nwhile [ "$1" != -o ]; do shift; done; echo library > "$2"')
    example = build.VARIANTS[build.machine()][0]
    two = [example._replace(file=f"{name}.so", cc=f"-{name}") for name in ("first", "second")]
    monkeypatch.setitem(build.VARIANTS, build.machine(), two)
    monkeypatch.setattr(build, "own_compiler", lambda _machine: [compiler])
    monkeypatch.setattr(os, "cpu_count", lambda: 2)

    assert build.build(tmp_path) == ([tmp_path / "first.so", tmp_path / "second.so"], [])
