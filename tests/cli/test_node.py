"""`edged node enable` and `disable` on a machine in a folder, with a systemctl of its own."""

import errno
import os
from pathlib import Path

import pytest

from edged.adapters.host.machine import Machine
from edged.domain.systemd.actions import Action
from tests.cli.conftest import VALID
from tests.support.fake_machine import UNITS, FakeMachine

DAEMON, COMPANION, VAULT = "edged@pi-a.service", "edged-infer@pi-a.service", "edged@vault.service"
DROP_IN = f"{UNITS}/{DAEMON}.d/50-node.conf"
TOPOLOGY = "etc/edged/topology.yaml"
CREDENTIALS = "etc/edged/credentials"
SECURE = VALID.replace(
    "bootstrap: [localhost:9092]\n",
    'bootstrap: [localhost:9092]\n  security: {protocol: SASL_PLAINTEXT, mechanism: SCRAM-SHA-512, username: "${NODE}",'
    ' password: "${cred:kafka-password}"}\n',
)


@pytest.fixture
def machine(tmp_path, monkeypatch, process):
    """With VALID as its topology."""
    fake = FakeMachine(tmp_path / "root", monkeypatch)
    fake.put(TOPOLOGY, VALID)
    for module in ("node", "enabled_nodes"):
        monkeypatch.setattr(f"edged.cli.{module}.Machine", fake.opened)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.delenv("SUDO_USER", raising=False)
    return fake


def test_a_node_is_enabled_and_each_step_is_printed(edged, machine):
    code, out, err = edged("node", "enable", "pi-a")
    assert (code, err) == (0, "")
    assert machine.is_running(DAEMON)
    assert machine.is_running(COMPANION)
    assert machine.changes() == [
        "daemon-reload",
        f"enable {DAEMON} {COMPANION}",
        f"start {DAEMON} {COMPANION}",
    ]
    assert "Environment=NODE=%i" in machine.text(DROP_IN)
    lines = out.splitlines()
    assert lines[0] == "install -d -m 750 -o edged -g edged /var/lib/edged"
    assert f"write /{DROP_IN}" in lines
    assert lines[-1].startswith("pi-a runs, now and at boot: journalctl -uedged@pi-a -uedged-infer@pi-a ")


def test_a_second_time_nothing_is_done(edged, machine):
    edged("node", "enable", "pi-a")
    before, _ = machine.tree(), machine.changes()
    code, out, err = edged("node", "enable", "pi-a")
    assert (code, out, err) == (0, "nothing to do: edged@pi-a and edged-infer@pi-a run, now and at boot\n", "")
    assert (machine.tree(), machine.changes()) == (before, [])


def test_a_dry_run_prints_the_same_and_does_nothing(edged, machine):
    before = machine.tree()
    code, printed, _ = edged("node", "enable", "pi-a", "--dry-run")
    assert (code, machine.tree(), machine.changes()) == (0, before, [])
    _, out, _ = edged("node", "enable", "pi-a")
    assert out.startswith(printed)
    assert len(printed.splitlines()) > 10

    _, printed, _ = edged("node", "disable", "pi-a", "--dry-run")
    assert machine.is_running(DAEMON)
    assert edged("node", "disable", "pi-a") == (0, printed, "")


def test_disable_removes_what_enable_made_and_leaves_the_state(edged, machine):
    before = machine.tree()
    edged("node", "enable", "pi-a")
    machine.put("var/lib/edged/pi-a/checkpoint", "weights")
    assert edged("node", "disable", "pi-a")[0] == 0
    left = {name: text for name, text in machine.tree().items() if name not in before}
    assert left == {
        "etc/systemd/system/multi-user.target.wants": "drwxr-xr-x",  # systemctl's
        "var/lib/edged": "drwxr-x---",
        "var/lib/edged/pi-a": "drwxr-xr-x",
        "var/lib/edged/pi-a/checkpoint": "weights",
        "var/cache/edged": "drwxr-x---",
    }
    assert edged("node", "disable", "pi-a") == (0, 'nothing to do: no unit of "pi-a" is enabled here\n', "")


def test_the_archive_gets_its_folder_and_how_to_mark_it(edged, machine):
    code, out, _ = edged("node", "enable", "vault")
    assert code == 0
    assert "ReadWritePaths=/srv/edged" in machine.text(f"{UNITS}/{VAULT}.d/50-node.conf")
    assert (machine.root / "srv/edged").is_dir()
    assert out.splitlines()[-1] == (
        "/srv/edged is empty; once: runuser -u edged -- edged archive init /etc/edged/topology.yaml"
    )
    (machine.root / "srv/edged/lost+found").mkdir()
    assert "archive init" in edged("node", "enable", "vault")[1]
    machine.put("srv/edged/edged-archive.json")
    assert "archive init" not in edged("node", "enable", "vault")[1]


def test_a_unit_that_runs_another_installation_is_told(edged, machine, monkeypatch):
    """Such as an older one, whose unit in /etc wins over the package's."""
    monkeypatch.setattr("sys.prefix", str(machine.root / "usr/lib/edged"))
    unit = "usr/lib/systemd/system/edged@.service"
    for home in ("usr/lib/edged", "opt/edged"):
        machine.put(f"{home}/bin/edged").chmod(0o755)
        machine.put(unit, f"[Service]\nExecStart=/{home}/bin/edged run x\n")
        code, _, err = edged("node", "enable", "pi-a")
        own = f"{machine.root}/usr/lib/edged/bin/edged"
        other = (
            f"warning: {DAEMON} runs /opt/edged/bin/edged, and this is {own} (if that is an older installation remove"
        )
        assert code == 0
        assert err.startswith(other) if home == "opt/edged" else err == ""


def test_a_node_that_a_full_disk_keeps_from_changing_runs_on(edged, machine, monkeypatch):
    edged("node", "enable", "pi-a")
    machine.put(TOPOLOGY, SECURE)
    machine.put_secret("pi-a", "kafka-password")
    before = machine.text(DROP_IN)
    machine.changes()
    with monkeypatch.context() as full:
        full.setattr("os.fsync", fill)
        code, _, err = edged("node", "enable", "pi-a")
    assert (code, machine.text(DROP_IN)) == (1, before)
    assert err == f"edged: /{DROP_IN}: No space left on device\n"
    assert machine.changes() == [f"stop {DAEMON} {COMPANION}", "daemon-reload", f"start {DAEMON} {COMPANION}"]
    assert edged("node", "enable", "pi-a")[0] == 0
    assert "LoadCredential" in machine.text(f"run/fake/read/{DAEMON}")


def fill(_descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_archive_that_root_may_not_look_into_is_not_called_empty(edged, machine, monkeypatch):
    (machine.root / "srv/edged").mkdir()
    listed = Path.iterdir

    def squashed(path):
        if path.name == "edged" and path.parent.name == "srv":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr("pathlib.Path.iterdir", squashed)
    code, out, err = edged("node", "enable", "vault")
    assert (code, err) == (0, "")
    assert "archive init" not in out


def test_who_came_by_sudo_is_given_commands_with_it(edged, machine, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "pi")
    assert "once: sudo runuser -u edged -- edged archive init " in edged("node", "enable", "vault")[1]
    machine.put(TOPOLOGY, SECURE)
    assert "kafka-password: | sudo install -m 600 " in edged("node", "enable", "pi-a")[2]
    (machine.root / TOPOLOGY).unlink()
    assert "(put the site's there: sudo install -D -m 644 " in edged("node", "enable", "pi-a")[2]


@pytest.mark.parametrize(
    ("closed", "command"),
    [
        (TOPOLOGY, "chgrp edged /etc/edged/topology.yaml && chmod g+r /etc/edged/topology.yaml"),
        ("etc/edged", "chmod a+x /etc/edged"),
    ],
)
def test_a_file_that_the_nodes_user_may_not_read_is_told_before_any_unit_is_touched(edged, machine, closed, command):
    machine.ids["edged"] = (4243, 4243)
    path = machine.root / closed
    path.chmod(0o700 if path.is_dir() else 0o600)
    assert edged("node", "enable", "pi-a") == (
        1,
        "",
        f"edged: the node's user edged may not read /{TOPOLOGY}: `{command}` lets it\n",
    )
    assert machine.changes() == []
    path.chmod(0o755 if path.is_dir() else 0o644)
    assert edged("node", "enable", "pi-a")[0] == 0


@pytest.mark.parametrize("name", ["edged@pi-a", "edged-infer@pi-a.service"])
def test_a_unit_in_place_of_the_name_is_told_with_its_node(edged, machine, name):
    code, _, err = edged("node", "enable", name)
    assert (code, machine.changes()) == (64, [])
    assert f'"{name}" is a unit; its node is called "pi-a"' in err


def test_an_archive_of_another_user_stays_so_and_is_named(edged, machine):
    (machine.root / "srv/edged").mkdir(mode=0o700)
    machine.ids["edged"] = (4243, 4243)
    code, out, _ = edged("node", "enable", "vault")
    assert code == 0
    assert "install -d -m 750 -o edged -g edged /srv/edged" not in out
    assert "`chown edged: /srv/edged`" in out
    machine.put("srv/edged/edged-archive.json")
    assert "`chown -R edged: /srv/edged`" in edged("node", "enable", "vault")[1]


def test_missing_secrets_are_named_with_how_to_put_them_and_nothing_is_started(edged, machine):
    machine.put(TOPOLOGY, SECURE)
    code, out, err = edged("node", "enable", "pi-a")
    assert (code, machine.changes()) == (1, [])
    assert err.splitlines() == [
        "edged node enable: no unit was touched, as a secret is missing: put it there and run this again:",
        f"  systemd-ask-password -n kafka-password: | install -m 600 /dev/stdin /{CREDENTIALS}/pi-a/kafka-password",
    ]
    assert oct((machine.root / CREDENTIALS / "pi-a").stat().st_mode) == "0o40700"
    assert all(line.startswith("install -d ") for line in out.splitlines())

    machine.put_secret("pi-a", "kafka-password")
    code, out, err = edged("node", "enable", "pi-a")
    assert (code, err) == (0, "")
    assert machine.is_running(DAEMON)
    assert "secret of" not in out


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_secret_is_missing(edged, machine, content):
    machine.put(TOPOLOGY, SECURE)
    machine.put(f"{CREDENTIALS}/pi-a/kafka-password", content).chmod(0o600)
    code, _, err = edged("node", "enable", "pi-a")
    assert code == 1
    assert "install -m 600 /dev/stdin /etc/edged/credentials/pi-a/kafka-password" in err


def test_a_masked_node_is_refused_before_anything_is_touched_and_can_be_taken_off(edged, machine):
    before = machine.tree()
    mask = machine.root / UNITS / DAEMON
    mask.symlink_to("/dev/null")
    code, _, err = edged("node", "enable", "pi-a")
    mask.unlink()
    assert (code, machine.tree()) == (1, before)
    assert f"edged: {DAEMON} is masked: `systemctl unmask {DAEMON}`" in err

    edged("node", "enable", "pi-a")
    mask.symlink_to("/dev/null")
    assert edged("node", "disable", "pi-a")[0] == 0
    assert not list((machine.root / UNITS / "multi-user.target.wants").iterdir())


def test_disable_leaves_secrets(edged, machine):
    machine.put(TOPOLOGY, SECURE)
    machine.put_secret("pi-a", "kafka-password")
    edged("node", "enable", "pi-a")
    edged("node", "disable", "pi-a")
    assert machine.text(f"{CREDENTIALS}/pi-a/kafka-password") == "secret of pi-a"


def test_a_topology_that_has_changed_is_followed_by_a_second_enable(edged, machine):
    edged("node", "enable", "pi-a")
    machine.changes()
    machine.put(TOPOLOGY, SECURE)
    machine.put_secret("pi-a", "kafka-password")
    assert edged("node", "enable", "pi-a")[0] == 0
    assert "LoadCredential=kafka-password:/etc/edged/credentials/pi-a/kafka-password" in machine.text(DROP_IN)
    assert machine.changes() == [f"stop {DAEMON} {COMPANION}", "daemon-reload", f"start {DAEMON} {COMPANION}"]


@pytest.fixture
def secure(machine, monkeypatch):
    """The machine's topology, which takes user and password from a node's unit."""
    for name in ("NODE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "station.lan")
    machine.put_secret("pi-a", "kafka-password")
    return str(machine.put(TOPOLOGY, SECURE))


def test_strict_reads_the_file_as_the_nodes_that_are_enabled_here(edged, machine, secure):
    code, _, err = edged("check", "--strict", secure)
    assert code == 78
    assert "the environment has no variable NODE" in err
    edged("node", "enable", "pi-a")
    assert edged("check", "--strict", secure)[0] == 0
    machine.put_secret("vault", "kafka-password")
    edged("node", "enable", "vault")
    assert edged("check", "--strict", secure)[0] == 0
    (machine.root / CREDENTIALS / "vault/kafka-password").unlink()
    code, _, err = edged("check", "--strict", secure)
    assert code == 78
    assert f'the credential "kafka-password" cannot be read in {machine.root / CREDENTIALS}/vault: No such' in err


def test_strict_reads_the_file_as_the_node_that_is_called_as_the_machine(edged, secure, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "PI-A.lan")
    assert edged("check", "--strict", secure)[0] == 0


def test_a_node_that_is_named_gives_its_name_and_its_secrets_to_the_file(edged, secure, monkeypatch, tmp_path):
    assert edged("check", "--strict", "--node", "pi-a", secure)[0] == 0
    assert edged("check", "--strict", "--node", "pi-b", secure)[0] == 78
    assert "no variable NODE" not in edged("check", "--node", "pi-b", secure)[2]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "elsewhere"))
    code, _, err = edged("check", "--strict", "--node", "pi-a", secure)
    assert code == 78
    assert f"cannot be read in {tmp_path / 'elsewhere'}: " in err


def test_strict_has_the_variables_that_a_drop_in_gives_a_node(edged, machine, secure):
    machine.put(TOPOLOGY, SECURE.replace("site: lab", 'site: "${SITE}"'))
    assert edged("check", "--strict", "--node", "pi-a", secure)[0] == 78
    machine.put("run/fake/environment", "NODE=pi-a SITE=lab\n")
    edged("node", "enable", "pi-a")
    assert edged("check", "--strict", "--node", "pi-a", secure)[0] == 0


def test_check_tells_that_the_topology_has_changed_and_a_node_is_gone(edged, machine):
    edged("node", "enable", "pi-a")
    edged("node", "enable", "pi-b")
    assert edged("check", str(machine.root / TOPOLOGY))[2] == ""
    machine.put(TOPOLOGY, SECURE.replace("pi-b", "pi-c"))
    _, _, err = edged("check", str(machine.root / TOPOLOGY))
    assert 'units of "pi-a" do not fit the topology any more (`edged node enable pi-a` as root mends that)' in err
    assert 'would run the node "pi-b", which the topology does not have (`edged node disable pi-b`' in err
    elsewhere = machine.put("home/topology.yaml", SECURE)
    assert "fit the topology" not in edged("check", str(elsewhere))[2]


def test_enable_names_another_node_that_has_been_renamed(edged, machine):
    edged("node", "enable", "pi-a")
    machine.put(TOPOLOGY, VALID.replace("pi-a", "pi-c"))
    code, _, err = edged("node", "enable", "pi-c")
    assert code == 0
    assert "`edged node disable pi-a` as root takes that off this machine" in err
    assert edged("node", "disable", "pi-a")[0] == 0
    assert edged("node", "enable", "pi-c") == (
        0,
        "nothing to do: edged@pi-c and edged-infer@pi-c run, now and at boot\n",
        "",
    )


def test_two_nodes_of_one_machine_do_not_touch_each_other(edged, machine):
    machine.put(TOPOLOGY, SECURE)
    for node in ("pi-a", "vault"):
        machine.put_secret(node, "kafka-password")
    edged("node", "enable", "vault")
    with_one = machine.tree()
    edged("node", "enable", "pi-a")
    edged("node", "disable", "pi-a")
    assert machine.tree() == with_one
    assert machine.is_running(VAULT)


def stopped_at(monkeypatch, number):
    """The next command is killed before its action of this number; whether there was one."""
    done: list[Action] = []
    carry_out = Machine.carry_out

    def stopping(self, action):
        if len(done) == number:
            raise KeyboardInterrupt
        done.append(action)
        carry_out(self, action)

    monkeypatch.setattr(Machine, "carry_out", stopping)
    return lambda: monkeypatch.setattr(Machine, "carry_out", carry_out)


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("secured_before", [False, True])
def test_after_a_kill_at_any_step_a_second_enable_does_the_rest(edged, machine, monkeypatch, number, secured_before):
    """Of a new node, and of one whose topology has changed."""
    if secured_before:
        edged("node", "enable", "pi-a")
    machine.put(TOPOLOGY, SECURE)
    machine.put_secret("pi-a", "kafka-password")
    resume = stopped_at(monkeypatch, number)
    killed = edged("node", "enable", "pi-a")[0]
    resume()
    assert edged("node", "enable", "pi-a")[0] == 0
    assert killed in {0, 130}
    assert machine.is_running(DAEMON)
    assert machine.is_running(COMPANION)
    assert machine.text(f"run/fake/read/{DAEMON}") == machine.text(DROP_IN)
    starts = [line for line in machine.changes() if not line.startswith("enable")]
    assert starts.index("daemon-reload") < max(at for at, line in enumerate(starts) if line.startswith("start"))
    edged("node", "disable", "pi-a")
    assert not list((machine.root / UNITS).glob("edged*"))


@pytest.mark.parametrize("number", range(9))
def test_after_a_kill_at_any_step_a_second_disable_does_the_rest(edged, machine, monkeypatch, number):
    before = machine.tree()
    edged("node", "enable", "pi-a")
    resume = stopped_at(monkeypatch, number)
    assert edged("node", "disable", "pi-a")[0] in {0, 130}
    resume()
    assert edged("node", "disable", "pi-a")[0] == 0
    assert {name for name in machine.tree() if name not in before and name.startswith("etc")} == {
        "etc/systemd/system/multi-user.target.wants"
    }
    assert not machine.is_running(DAEMON)
    assert not list((machine.root / "run/fake/read").iterdir())


def test_a_start_that_fails_says_where_to_look(edged, machine):
    machine.put("run/fake/broken")
    code, _, err = edged("node", "enable", "pi-a")
    assert code == 1
    assert f"edged: `systemctl start {DAEMON} {COMPANION}`: Job for {COMPANION} failed" in err
    assert err.splitlines()[-1].startswith(f"its log says why: journalctl -u{DAEMON} -u{COMPANION} -p err")


def test_only_root_may(edged, machine, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for action in ("enable", "disable"):
        assert edged("node", action, "pi-a") == (
            77,
            "",
            f"edged node {action}: this takes root: sudo edged node {action} pi-a\n",
        )


def test_without_a_topology_it_says_where_to_put_it(edged, machine):
    (machine.root / TOPOLOGY).unlink()
    code, _, err = edged("node", "enable", "pi-a")
    assert code == 78
    assert (
        "there is no topology yet (put the site's there: install -D -m 644 topology.yaml /etc/edged/topology.yaml)"
        in err
    )


def test_a_topology_that_is_a_link_to_where_nothing_is_is_said_to_be_one(edged, machine):
    """Of a file system that is not mounted, say."""
    file = machine.root / TOPOLOGY
    file.unlink()
    file.symlink_to("/media/stick/topology.yaml")
    code, _, err = edged("node", "enable", "pi-a")
    assert code == 78
    assert "topology.yaml is a link to /media/stick/topology.yaml, where nothing is" in err


def test_a_wrong_topology_is_refused_with_all_its_problems_and_nothing_is_touched(edged, machine):
    machine.put(TOPOLOGY, VALID.replace("edge: pi-a", "edge: pi-x").replace("schema: 1", "schema: 2"))
    before = machine.tree()
    code, _, err = edged("node", "enable", "pi-a")
    assert (code, machine.tree(), machine.changes()) == (78, before, [])
    assert "schema" in err
    assert 'no edge is called "pi-x"' in err


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("pi-aa", 'no node is called "pi-aa" (did you mean "pi-a"?)'),
        ("cam-01", '"cam-01" is a device, and units are edges or the archive'),
    ],
)
def test_a_name_that_no_unit_can_have_is_refused(edged, machine, node, said):
    code, _, err = edged("node", "enable", node)
    assert code == 78
    assert said in err


def test_an_archive_that_units_do_not_see_is_refused(edged, machine):
    machine.put(TOPOLOGY, VALID.replace("file:///srv/edged", "file:///home/pi/edged"))
    code, _, err = edged("node", "enable", "vault")
    assert code == 78
    assert "archive[0].url: units do not see what is below /home" in err


def test_what_is_printed_of_a_hostile_file_shows_all_its_characters(edged, machine):
    machine.put(TOPOLOGY, VALID.replace("file:///srv/edged", r'"file:///srv/\u202Ex\u2028y\x85"'))
    _, out, _ = edged("node", "enable", "vault", "--dry-run")
    assert r"/srv/\u202ex\u2028y\x85" in out


def test_a_variable_of_the_units_own_is_known_and_a_missing_one_is_warned_of(edged, machine):
    machine.put(TOPOLOGY, VALID.replace("file:///srv/edged", '"${ARCHIVE}"').replace("localhost:9092", '"${BROKER}"'))
    machine.put("run/fake/environment", "ARCHIVE=file:///srv/elsewhere\n")
    code, _, err = edged("node", "enable", "vault")
    assert code == 0
    assert "ReadWritePaths=/srv/elsewhere" in machine.text(f"{UNITS}/{VAULT}.d/50-node.conf")
    assert "the environment has no variable BROKER" in err


def test_a_word_that_is_no_name_is_wrong_usage(edged, machine):
    for action in ("enable", "disable"):
        code, _, err = edged("node", action, "../pi-a")
        assert code == 64
        assert '"../pi-a" cannot be the name of a node' in err


def test_on_a_machine_without_systemd_it_says_what_else_to_do(edged, machine):
    (machine.root / "run/systemd/system").rmdir()
    code, _, err = edged("node", "enable", "pi-a")
    assert code == 1
    assert "have its own service manager start `edged run`" in err


def test_a_machine_without_the_user_or_the_archives_part_is_refused_at_once(edged, machine, monkeypatch):
    del machine.ids["edged"]
    monkeypatch.setattr("edged.cli.node.find_spec", lambda name: None)
    before = machine.tree()
    code, _, err = edged("node", "enable", "vault")
    assert (code, machine.tree(), machine.changes()) == (1, before, [])
    assert "systemd-sysusers" in err
    assert "the archive's part of edged is not installed: " in err


def test_an_edge_of_devices_on_mqtt_is_not_enabled_without_what_speaks_it(edged, machine, monkeypatch):
    on_mqtt = VALID.replace("stream: digits}", "stream: digits, transport: mqtt}", 1)
    machine.put(TOPOLOGY, f"mqtt: {{broker: localhost}}\n{on_mqtt}")
    monkeypatch.setattr("edged.cli.node.find_spec", lambda name: None)
    code, _, err = edged("node", "enable", "pi-a")
    assert (code, machine.changes()) == (1, [])
    assert "paho, which nodes on MQTT need, is not installed: " in err


def test_a_read_only_etc_is_named_and_a_second_time_does_the_rest(edged, machine, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system", f"/{DROP_IN}")

    with monkeypatch.context() as patched:
        patched.setattr("edged.adapters.host.machine.Machine._write", refuse)
        code, _, err = edged("node", "enable", "pi-a")
    assert code == 1
    assert f"edged: /{DROP_IN}: Read-only file system: mount it writable" in err
    assert edged("node", "enable", "pi-a")[0] == 0


def test_names_of_enabled_nodes_are_told_where_another_is_asked_for(edged, machine):
    edged("node", "enable", "pi-a")
    assert edged("node", "disable", "pi-aa") == (
        0,
        'nothing to do: no unit of "pi-aa" is enabled here; enabled here: pi-a\n',
        "",
    )


@pytest.mark.parametrize("node", ["a.mount", "pi.service"])
def test_a_name_that_looks_like_another_kind_of_unit_is_a_service(edged, machine, node):
    machine.put(TOPOLOGY, VALID.replace("pi-b", node))
    assert edged("node", "enable", node)[0] == 0
    assert machine.is_running(f"edged@{node}.service")
    assert edged("node", "disable", node)[0] == 0
    assert not machine.is_running(f"edged@{node}.service")
