"""What the units promise, under a real systemd: nodes start, hang, are killed, stopped, reloaded, and start again."""

import stat

from tests.support.booted.site import PASSWORD, topology
from tests.support.booted.units import RESTART_SCHEDULED, UNIT_FAILED, UNIT_STARTED, Entry

SERIES = "res.sample"
"""So many lines that they have the priority of debug, whatever their level."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Of the journal, for each level of edged's log."""

LIKE_PI_A = """\
[Service]
Environment=NODE=%i
LoadCredential=kafka-password:/etc/edged/credentials/pi-a/kafka-password
"""

FAILURES = 12
"""More than systemd takes by itself before it gives a unit up."""


def failed(entry: Entry) -> bool:
    return entry.is_kind(UNIT_FAILED)


def test_a_unit_is_active_once_its_node_is_ready(site):
    for unit in site.units:
        assert unit.has(ActiveState="active", SubState="running", Type=unit.kind_of_readiness)
        entries = unit.entries()
        ready = [n for n, each in enumerate(entries) if each.line.get("event") == "life.ready"]
        started = [n for n, each in enumerate(entries) if each.is_kind(UNIT_STARTED)]
        assert len(ready) == len(started) >= 1
        assert unit.show("StatusText")["StatusText"].startswith(("ok", "degraded: "))


def test_a_node_that_hangs_is_killed_by_the_watchdog_and_started_again(site):
    since = site.edge.now()
    for unit in site.units:
        site.machine.run("kill", "-STOP", str(unit.pid))
    for unit in site.units:
        end = unit.until(failed, since, may_fail=True)
        assert end.fields["UNIT_RESULT"] == "watchdog"
        unit.wait_for("life.ready", since, may_fail=True)


def test_an_edge_that_is_killed_resumes_at_its_newest_checkpoint(site):
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    since = site.edge.now()
    site.machine.run("kill", "-KILL", str(site.edge.pid))
    site.edge.until(failed, since, may_fail=True)
    newest = site.checkpoints()[-1]
    started = site.edge.wait_for("train.started", since, may_fail=True)
    assert (started["resumed"], started["step"]) == (True, newest)
    assert newest > 0


def test_a_companion_that_is_killed_comes_again_and_the_edge_does_not_notice(site):
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    pid, since = site.edge.pid, site.companion.now()
    site.machine.run("kill", "-KILL", str(site.companion.pid))
    site.companion.until(failed, since, may_fail=True)
    site.companion.wait_for("life.ready", since, may_fail=True)
    assert site.edge.pid == pid
    assert [each.text for each in site.edge.entries(since) if each.priority < PRIORITIES["info"]] == []


def test_a_node_stops_with_0_and_its_last_step_saved(site):
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    since = site.edge.now()
    site.machine.run("systemctl", "stop", *(unit.name for unit in site.units))
    for unit in site.units:
        assert unit.has(ActiveState="inactive", Result="success", ExecMainCode="1", ExecMainStatus="0")
        assert unit.wait_for("life.stopped", since)["exit_code"] == 0
    newest = site.checkpoints()[-1]
    assert site.edge.seen("checkpoint.saved", since)[-1]["generation"] == newest
    site.machine.run("systemctl", "start", site.edge.name)
    assert site.edge.wait_for("train.started", since)["step"] == newest


def test_a_reload_takes_a_changed_topology_and_refuses_a_wrong_one(site):
    since = site.edge.now()
    pids = [unit.pid for unit in site.units]
    site.configure(topology(checkpoint="2s"))
    site.reload()
    assert site.edge.wait_for("config.reloaded", since)["keys"] == ["training.checkpoint"]
    site.companion.wait_for("config.reloaded", since)

    site.configure(topology(checkpoint="-1s"))
    site.reload()
    for unit in site.units:
        refused = unit.until(lambda each: each.line.get("event") == "config.refused", since)
        assert "checkpoint" in refused.text
        assert refused.priority <= PRIORITIES["warning"]
        assert unit.has(ActiveState="active", SubState="running")
    assert [unit.pid for unit in site.units] == pids


def test_a_wrong_topology_ends_with_78_which_is_not_tried_again_and_is_among_the_errors(site):
    since = site.edge.now()
    site.configure(topology().replace("edge: pi-a", "edge: pi-x"))
    for unit in site.units:
        assert site.machine.tried("systemctl", "restart", unit.name).returncode == 1
        assert unit.has(ActiveState="failed", Result="exit-code", ExecMainStatus="78", NRestarts="0")
        assert not any(each.is_kind(RESTART_SCHEDULED) for each in unit.entries(since))
        error = unit.until(lambda each: "topology.yaml:15:" in each.text, since, may_fail=True)
        assert error.priority == PRIORITIES["error"]
        assert 'did you mean \\"pi-a\\"?' in error.text


def test_a_node_that_the_topology_does_not_have_ends_with_78(site):
    unknown = site.unit("edged@pi-q")
    site.drop_in(unknown.name, LIKE_PI_A)
    assert site.machine.tried("systemctl", "start", unknown.name).returncode == 1
    assert unknown.has(ActiveState="failed", ExecMainStatus="78", NRestarts="0")
    assert unknown.until(lambda each: "no node is called" in each.text, may_fail=True).priority == PRIORITIES["error"]


def test_checkpoints_of_another_model_end_a_node_with_78_once_it_has_begun(site):
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    site.machine.run("systemctl", "stop", site.edge.name)
    since = site.edge.now()
    site.configure(topology(model="[flatten, dense: 10]"))
    site.machine.run("systemctl", "start", site.edge.name)
    site.edge.until(failed, since, may_fail=True)
    assert site.edge.has(ActiveState="failed", ExecMainStatus="78", NRestarts="0")


def test_a_credential_is_the_services_own_and_one_that_is_missing_is_waited_for(site):
    given = site.machine.file("/run/credentials/edged@pi-a.service/kafka-password")
    folder, file = given.parent.stat(), given.stat()
    assert (folder.st_mode | file.st_mode) & stat.S_IRWXO == 0
    reader = ("runuser", "-u", "nobody", "--", "cat", "/run/credentials/edged@pi-a.service/kafka-password")
    assert site.machine.tried(*reader).returncode == 1
    assert given.read_text().strip() == PASSWORD
    assert PASSWORD not in site.machine.run("systemctl", "show", site.edge.name)
    assert PASSWORD not in site.machine.run("journalctl", "-o", "cat")

    kept = site.machine.file("/etc/edged/credentials/pi-a/kafka-password")
    away = kept.rename(kept.with_suffix(".away"))
    since = site.edge.now()
    assert site.machine.tried("systemctl", "restart", site.edge.name).returncode == 1
    assert site.edge.show("ExecMainStatus") == {"ExecMainStatus": "243"}
    away.rename(kept)
    site.edge.wait_for("life.ready", since, may_fail=True)


def test_a_node_that_always_fails_is_started_again_and_again(site):
    failing = site.unit("edged@failing")
    drop_in = "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=10ms\nRestartMaxDelaySec=20ms\n"
    site.drop_in(failing.name, drop_in)
    site.machine.tried("systemctl", "start", failing.name)
    failures = iter(range(FAILURES))
    failing.until(lambda each: failed(each) and next(failures, None) is None, may_fail=True)
    site.machine.run("systemctl", "stop", failing.name)


def test_pauses_before_restarts_are_those_that_the_page_promises(site):
    shown = site.edge.show("RestartUSec", "RestartSteps", "RestartMaxDelayUSec", "StartLimitIntervalUSec")
    assert shown.pop("StartLimitIntervalUSec") == "0"
    if site.machine.systemd < 254:
        assert shown == {"RestartUSec": "15s"}
        assert site.pause_after_a_kill() >= 15
        return
    assert shown == {"RestartUSec": "5s", "RestartSteps": "5", "RestartMaxDelayUSec": "2min"}
    site.machine.run("systemctl", "restart", site.edge.name)  # from which on restarts are counted
    first, second, third = (site.pause_after_a_kill() for _ in range(3))
    assert 5 <= first < second < third


def test_the_threads_that_compute_are_nicer_than_the_event_loop(site):
    site.edge.wait_for("checkpoint.saved", site.edge.now())  # by then they have begun
    main, *others = site.niceness(site.edge)
    assert main == 5
    assert set(others) == {5, 10}
    assert set(site.niceness(site.companion)) == {0}
    assert site.edge.seen("res.priority_refused") == []


def test_every_line_in_the_journal_has_its_levels_priority(site):
    for unit in site.units:
        lines = [each for each in unit.entries() if each.pid != 1 and each.fields["_COMM"].startswith("edged")]
        assert lines
        for each in lines:
            if each.line:
                level = "debug" if each.line["event"] == SERIES else each.line["level"]
                assert each.priority == PRIORITIES[level], each.text
            assert each.fields["SYSLOG_IDENTIFIER"] == "edged"
            assert each.fields["_SYSTEMD_UNIT"] == f"{unit.name}.service"


def test_no_unit_exposes_more_than_a_score_of_1_5(site):
    for unit in site.units:
        site.machine.run("systemd-analyze", "security", "--no-pager", "--threshold=15", unit.name)


def test_after_a_reboot_all_nodes_are_back_and_the_edge_resumes(site):
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    since = site.edge.now()
    site.machine.reboot()
    before = site.edge.seen("life.stopped", since)
    assert [each["exit_code"] for each in before] == [0]
    started = site.edge.wait_for("train.started", since)
    assert (started["resumed"], started["step"]) == (True, site.saved_at_its_stop(since))
    for unit in site.units:
        unit.wait_for("life.ready", since)
        assert unit.has(ActiveState="active", NRestarts="0")
    ends = site.ended_in_order(since)
    assert ends.index(site.companion.name) < ends.index(site.edge.name)
