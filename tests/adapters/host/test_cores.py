"""How many cores there are for this process: by its affinity, and by the quotas of its control groups."""

import os
import subprocess
import sys

import pytest

from edged.adapters.host.cores import num_cores

_IN_VERSION_1 = "9:cpuset:/\n4:cpu,cpuacct:/system.slice/edged\n1:name=systemd:/\n0::/\n"
_IN_VERSION_2 = "0::/system.slice/edged\n"


@pytest.fixture
def sixteen_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)


def machine(root, groups, quotas=()):
    """`groups`: what /proc says. `quotas`: by the group's path; of version 1 where they are numbers."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for path, quota in dict(quotas).items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(quota, str):
            (folder / "cpu.max").write_text(f"{quota}\n")
        else:
            (folder / "cpu.cfs_quota_us").write_text(f"{quota[0]}\n")
            (folder / "cpu.cfs_period_us").write_text(f"{quota[1]}\n")
    return root


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be kept to some CPUs here")
def test_cores_that_the_process_may_not_use_do_not_count(tmp_path):
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert num_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert num_cores(tmp_path) == len(allowed)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be kept to some CPUs here")
def test_no_library_that_a_trainer_loads_keeps_its_lanes_to_one_core_as_openmp_can():
    """https://github.com/pytorch/pytorch/issues/101850: with such settings libgomp does, as soon as it is loaded."""
    code = (
        "import os; before = os.sched_getaffinity(0); import edged.app.jobs; import numpy as np; "
        "np.ones((300, 300)) @ np.ones((300, 300)); assert os.sched_getaffinity(0) == before"
    )
    pinned = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "GOMP_CPU_AFFINITY": "0", "KMP_AFFINITY": "compact,1,0"}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **pinned})


@pytest.mark.usefixtures("sixteen_cpus")
@pytest.mark.parametrize(
    ("groups", "quotas", "cores"),
    [
        pytest.param(_IN_VERSION_2, {"system.slice/edged": "200000 100000"}, 2, id="a unit's CPUQuota"),
        pytest.param(_IN_VERSION_2, {"system.slice/edged": "150000 100000"}, 2, id="the rest of a core is used, too"),
        pytest.param(_IN_VERSION_2, {"system.slice/edged": "20000 100000"}, 1, id="less than a core"),
        pytest.param(_IN_VERSION_2, {"system.slice/edged": "max 100000"}, 16, id="none"),
        pytest.param(
            _IN_VERSION_2, {"system.slice/edged": "max 100000", "system.slice": "300000 100000"}, 3, id="slice"
        ),
        pytest.param(_IN_VERSION_2, {"system.slice/edged": "9900000 100000"}, 16, id="more than there are"),
        pytest.param("0::/\n", {"": "400000 100000"}, 4, id="a container with a namespace of groups"),
        pytest.param("0::/docker/4711\n", {"": "400000 100000"}, 4, id="a container that is told the host's path"),
        pytest.param(_IN_VERSION_1, {"cpu/system.slice/edged": (250_000, 100_000)}, 3, id="version 1"),
        pytest.param(_IN_VERSION_1, {"cpu/system.slice/edged": (-1, 100_000)}, 16, id="version 1, none"),
        pytest.param("4:cpu:/docker/4711\n", {"cpu": (100_000, 100_000)}, 1, id="version 1, a container"),
        pytest.param(_IN_VERSION_2, {"system.slice/edged": "nonsense"}, 16, id="unreadable"),
        pytest.param(_IN_VERSION_2, {"system.slice/edged": "1 0"}, 16, id="no period"),
        pytest.param("nonsense\n", {}, 16, id="groups of an unknown kind"),
    ],
)
def test_a_quota_of_cpu_time_counts_as_cores(tmp_path, groups, quotas, cores):
    assert num_cores(machine(tmp_path, groups, quotas)) == cores


@pytest.mark.usefixtures("sixteen_cpus")
def test_where_groups_cannot_be_read_all_cores_count(tmp_path):
    assert num_cores(tmp_path) == 16
