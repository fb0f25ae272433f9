"""Why a node does not start is in its log: as an error, for whoever reads it from the journal."""

import json
import os
import signal

import pytest

from edged import cli
from edged.adapters.host.process_lock import process_lock
from edged.domain.systemd.setup import drop_in_of, setup_of
from tests.support.fake_machine import FakeMachine
from tests.support.rights import as_nobody, passable_folder
from tests.support.valid_topology import VALID, WITHOUT_KAFKA

TRAINING = f"{WITHOUT_KAFKA}training: {{stream: tiles, model: [flatten, {{dense: 2}}]}}\n"
WRONG = "schema: 1\nsite: lab\nsite: lab\n"


@pytest.fixture
def start(tmp_path, monkeypatch, capfd):
    """Runs `edged run` on this text to its end; its code and its lines on stderr."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def run(text, node="pi-a", command="run", folder=tmp_path):
        file = folder / "topology.yaml"
        file.write_text(text)
        code = cli.main([command, str(file), "--node", node])
        return code, capfd.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize("command", ["run", "infer"])
def test_a_wrong_topology_is_one_error_with_all_its_problems(start, command):
    code, [line] = start(WRONG, command=command)
    fields = json.loads(line)
    assert (code, fields["event"], fields["level"], fields["node"]) == (78, "config.refused", "error", "pi-a")
    assert any("topology.yaml:3:1: site: the key stands here twice" in problem for problem in fields["problems"])
    assert any("kafka: is missing" in problem for problem in fields["problems"])


@pytest.mark.parametrize(
    ("node", "problem"), [("pi-b", 'no node is called "pi-b" (did you mean "pi-a"?)'), ("cam", "edged sensor")]
)
def test_so_is_a_node_that_the_topology_does_not_have_or_of_another_tier(start, node, problem):
    code, [line] = start(WITHOUT_KAFKA, node=node)
    assert code == 78
    assert problem in json.loads(line)["problems"][0]


def test_a_node_that_runs_already_is_an_error(start, tmp_path):
    with process_lock(tmp_path / "edged" / "pi-a"):
        code, lines = start(WITHOUT_KAFKA)
    assert code == 75
    assert [json.loads(line)["event"] for line in lines] == ["life.refused"]


def test_so_is_a_package_that_edged_was_installed_without(start, monkeypatch):
    async def main(_topology, _node, _read):
        raise ModuleNotFoundError("No module named 'paho'", name="paho")

    monkeypatch.setattr("edged.app.node.run_node", lambda topology, node, read, _timing: main(topology, node, read))
    code, lines = start(WITHOUT_KAFKA)
    fields = json.loads(lines[-1])
    assert (code, fields["event"], fields["level"]) == (78, "life.refused", "error")
    assert "paho is not installed: " in fields["reason"]


def test_a_unit_that_does_not_fit_the_topology_any_more_is_warned_of(start, tmp_path, monkeypatch):
    """Also one that was enabled while there were credentials. Nothing is said of this machine's other nodes."""
    machine = FakeMachine(tmp_path / "root", monkeypatch)
    monkeypatch.setattr("edged.cli.enabled_nodes.Machine", machine.opened)
    for node in ("pi-a", "pi-b"):
        for unit, text in setup_of(VALID, node, {"key": "kafka.security"}).drop_ins.items():
            machine.put(drop_in_of(unit), text)
    with process_lock(tmp_path / "edged" / "pi-a"):
        _, lines = start(TRAINING, folder=machine.root / "etc/edged")
    warned = [json.loads(line) for line in lines if "config.warned" in line]
    assert [len(each["problems"]) for each in warned] == [1]
    assert "`edged node enable pi-a` as root mends that" in warned[0]["problems"][0]


def test_an_error_that_nobody_expected_is_logged_with_its_traceback(start, monkeypatch):
    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("edged.app.node.run_node", broken)
    code, [line] = start(WITHOUT_KAFKA)
    fields = json.loads(line)
    assert (code, fields["event"], fields["level"], fields["tier"]) == (70, "life.crashed", "error", "edge")
    assert "RuntimeError: a defect" in fields["traceback"]


def test_the_level_is_the_commands_or_else_the_topologys(start, monkeypatch):
    levels = []

    async def run_node(topology, node, read, timing):
        levels.append((topology.log.level, read().log.level))
        return 0

    monkeypatch.setattr("edged.app.node.run_node", run_node)
    file = WITHOUT_KAFKA + "log: {level: warning}\n"
    assert start(WITHOUT_KAFKA)[0] == start(file)[0] == 0
    assert levels == [("info", "info"), ("warning", "warning")]


def test_from_the_start_on_a_hangup_waits(start, monkeypatch):
    """It is held back until the node can reload; the default would end the process."""

    async def run_node(*_args, **_timing):
        signal.raise_signal(signal.SIGHUP)
        assert signal.SIGHUP in signal.sigpending()
        signal.sigwait({signal.SIGHUP})
        return 0

    monkeypatch.setattr("edged.app.node.run_node", run_node)
    assert start(WITHOUT_KAFKA)[0] == 0


@pytest.mark.parametrize("text", [WRONG, "schema: [\n"])
def test_what_other_commands_say_reaches_the_journal_as_errors(tmp_path, monkeypatch, text):
    file = tmp_path / "topology.yaml"
    file.write_text(text)
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr("sys.stderr", journal)
        assert cli.main(["topics", str(file)]) == 78
        journal.seek(0)
        lines = journal.read().splitlines()
    assert lines
    assert all(line.startswith("<3>") and "<3>" not in line[3:] for line in lines)


@pytest.mark.parametrize("command", ["run", "infer"])
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("file", "FOLDER is no folder: move it away"),
        ("link to itself", "FOLDER is a link to FOLDER, where nothing is"),
        ("link to nowhere", "FOLDER is a link to /mnt/no-such-disk, where nothing is"),
    ],
)
def test_a_state_folder_that_is_none_is_refused_by_name(start, tmp_path, process, command, what, reason):
    folder = tmp_path / "edged" / "pi-a"
    folder.parent.mkdir()
    if what == "file":
        folder.write_text("in the way")
    else:
        folder.symlink_to(folder.name if what == "link to itself" else "/mnt/no-such-disk")
    code, lines = start(TRAINING, command=command)
    assert (code, json.loads(lines[-1])["event"]) == (73, "life.refused")
    verb = "used" if command == "run" else "read"
    assert f"the state folder {folder} cannot be {verb}: {reason.replace('FOLDER', str(folder))}" in lines[-1]


def load_all_that_a_start_needs(start, monkeypatch, folder, command):
    """A start that ends late: this Python's modules may be where only root can read them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    (folder / "edged" / "pi-a").mkdir(parents=True)
    (folder / "edged" / "pi-a" / "jobs").write_text("in the way")
    assert start(TRAINING.replace("model:", "name: tiles, model:"), command=command)[0] == 73


@pytest.mark.parametrize(("command", "mode"), [("run", "drwxr-xr-x"), ("infer", "drwxr-x---")])
def test_folders_of_roots_are_told_with_the_commands_that_give_them_to_us(start, monkeypatch, process, command, mode):
    """The state folder's end the start; the cache's is done without."""
    with passable_folder() as folder:
        load_all_that_a_start_needs(start, monkeypatch, folder / "loading", command)
        monkeypatch.setenv("XDG_STATE_HOME", str(folder))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        state = folder / "edged" / "pi-a"
        state.mkdir(parents=True)
        state.chmod(0o755 if command == "run" else 0o750)
        with as_nobody():
            code, lines = start(TRAINING, command=command, folder=folder / "open")
    said = {fields["event"]: fields for fields in map(json.loads, lines)}
    assert code == 73
    assert (
        f"{state} belongs to root ({mode}), and this is nobody: `chown -R nobody: {state}` as root"
        in (said["life.refused"]["reason"])
    )
    assert (
        f"and {folder} belongs to root (drwxr-xr-x), and this is nobody: `install -d"
        in (said["cache.unusable"]["reason"])
    )


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o646])
def test_what_check_warns_of_and_secrets_that_others_may_read_are_in_the_log(start, tmp_path, monkeypatch, mode):
    (tmp_path / "password").write_text("hidden")
    (tmp_path / "password").chmod(mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    security = "{protocol: SASL_PLAINTEXT, mechanism: PLAIN, username: pi-a, password: '${cred:password}'}"
    text = WITHOUT_KAFKA.replace("bootstrap:", f"security: {security}, bootstrap:")
    with process_lock(tmp_path / "edged" / "pi-a"):
        code, lines = start(text)
    said = {fields["event"]: fields for fields in map(json.loads, lines)}
    assert code == (78 if mode == 0o646 else 75)
    assert ("config.warned" in said) == (mode == 0o644)
    assert ("config.refused" in said) == (mode == 0o646)
    if mode != 0o600:
        [problem] = (said.get("config.warned") or said["config.refused"])["problems"]
        assert f"{tmp_path}/password may be {'read' if mode == 0o644 else 'written'} by others" in problem
        assert f"(chmod 600 {tmp_path}/password)" in problem
    assert "hidden" not in "".join(lines)
