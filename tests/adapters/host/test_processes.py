"""Whether a process has ended: certain, or not at all."""

import os
import subprocess
import sys

import pytest

from edged.adapters.host.process_lock import name_lock, process_lock
from edged.adapters.host.processes import LocalProcesses
from edged.errors import AlreadyRunning

HERE = LocalProcesses("")


def test_a_running_process_is_not_gone_and_a_killed_one_is_even_before_its_parent_has_asked():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = int((HERE._proc / str(child.pid) / "stat").read_text().rpartition(")")[2].split()[19])
        process = HERE.own._replace(pid=child.pid, started=started)
        assert not HERE.is_gone(process)
        assert HERE.is_gone(process._replace(started=started - 1))  # its pid, given to another one
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert HERE.is_gone(process)
    assert HERE.is_gone(process)


@pytest.mark.parametrize("field", ["boot", "namespace"])
def test_of_another_boot_or_another_container_nothing_is_certain(field):
    ended = HERE.own._replace(started=HERE.own.started - 1)
    assert HERE.is_gone(ended)
    other = ended._replace(boot="another") if field == "boot" else ended._replace(namespace="another")
    assert not HERE.is_gone(other)


def test_who_held_the_lock_that_this_process_holds_is_gone_also_in_another_container(tmp_path):
    with process_lock(tmp_path) as lock:
        here = LocalProcesses(lock)
        elsewhere = here.own._replace(namespace="pid:[7]", pid=1)
        assert here.is_gone(elsewhere)
        assert not here.is_gone(elsewhere._replace(boot="another"))
        assert not here.is_gone(elsewhere._replace(lock="1:2"))


def test_a_companions_lock_is_of_its_folder_which_need_not_exist(tmp_path):
    with name_lock(tmp_path / "pi-a", "infer") as lock:
        assert lock
        with pytest.raises(AlreadyRunning, match="pi-a"), name_lock(tmp_path / "pi-a", "infer"):
            pass
        with name_lock(tmp_path / "pi-b", "infer"):
            pass
    with name_lock(tmp_path / "pi-a", "infer"):
        assert list(tmp_path.iterdir()) == []
