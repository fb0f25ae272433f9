"""The manual and the completions say what the parsers say; the shells and troff understand them."""

import argparse
import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edged.cli import COMMANDS, whole_parser
from tests.support.pages import ROOT
from tests.support.requirements import require

MANUAL = "share/man/man1/edged.1.gz"
COMPLETIONS = {
    "bash": "share/bash-completion/completions/edged",
    "zsh": "share/zsh/vendor-completions/_edged",
    "fish": "share/fish/vendor_completions.d/edged.fish",
}


def make(folder: Path, **environment: str) -> Path:
    subprocess.run(
        [sys.executable, ROOT / "systemd" / "manual.py", folder],
        check=True, capture_output=True, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("usr"), SOURCE_DATE_EPOCH="1700000000")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """All long options, those of sub-commands too."""
    found = set()
    for action in parser._actions:
        found |= {word for word in action.option_strings if word.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(options(each) for each in action.choices.values()))
    return found - {"--help"}


def test_a_manual_and_three_completions_are_made_where_debian_has_them(made):
    assert files(made).keys() == {MANUAL, *COMPLETIONS.values()}


def test_they_are_the_same_bytes_each_time_whatever_the_terminal(made, tmp_path):
    assert files(make(tmp_path, SOURCE_DATE_EPOCH="1700000000", COLUMNS="40", LC_ALL="C")) == files(made)


def test_the_manual_has_every_command_option_and_exit_code(made):
    text = gzip.decompress((made / MANUAL).read_bytes()).decode().replace("\\-", "-")
    assert [name for name in COMMANDS if f"'edged {name}'" not in text] == []
    assert [option for option in options(whole_parser()) if option not in text] == []
    assert "Exit codes: 1 secrets are missing" in text
    assert ".I /etc/edged/topology.yaml" in text.partition(".SH FILES")[2]
    assert '"2023-11-14"' in text


def test_troff_finds_nothing_wrong_with_the_manual(made, tmp_path):
    if shutil.which("groff") is None:
        require("groff (Debian: groff-base)")
    page = tmp_path / "edged.1"
    page.write_bytes(gzip.decompress((made / MANUAL).read_bytes()))
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_every_command_and_option_is_completed_by(made, shell):
    text = (made / COMPLETIONS[shell]).read_text()
    prefix = "-l " if shell == "fish" else "--"
    wanted = [*COMMANDS, *(f"{prefix}{option.removeprefix('--')}" for option in options(whole_parser()))]
    assert [each for each in wanted if each not in text] == []


@pytest.mark.parametrize(("shell", "options"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_completion_is_the_shells_own_language(made, shell, options):
    if shutil.which(shell) is None:
        require(f"{shell} (Debian: {shell})")
    done = subprocess.run([shell, *options, made / COMPLETIONS[shell]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("ch", {"check"}),
        ("node ", {"enable", "disable"}),
        ("node enable --", {"--dry-run", "--help"}),
        ("archive rel", {"release"}),
        ("run --log-level w", {"warning"}),
        ("check top", {"topology.yaml"}),
    ],
)
def test_bash_completes(made, tmp_path, words, completed):
    (tmp_path / "topology.yaml").touch()
    script = f"""
        source {made / COMPLETIONS["bash"]}
        function=$(complete -p edged | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        COMP_WORDS=(edged {words}{"''" if words.endswith(" ") else ""})
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        compopt() {{ :; }}
        $function edged "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {re.sub(r"\s+$", "", line) for line in done.stdout.splitlines()} == completed


def test_fish_completes(made, tmp_path):
    if shutil.which("fish") is None:
        require("fish (Debian: fish)")
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {made / COMPLETIONS['fish']}; complete -C 'edged node '"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert {"enable", "disable"} <= {line.partition("\t")[0] for line in done.stdout.splitlines()}


def test_no_command_loads_what_makes_them():
    """They are of a package's build alone."""
    program = (
        "import sys; from edged.cli import main; main(['--help']);"
        "print([name for name in ('shtab', 'argparse_manpage') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
