"""Every unit's sandbox, tried out by a process that runs in it in place of the unit's program."""

import pytest

from tests.support.booted.site import BootedSite

OPEN = ("/etc/open", "/usr/open", "/opt/open", "/srv/open", "/var/open", "/usr/lib/modules")
"""Folders that everybody may write to, as far as their modes say."""

OWN = ("/var/cache/edged", "/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - as the unit sees them

CODE = ("map memory that is written and run", "make written memory code")

OF_ALL = {
    **{f"write into {folder}": "EROFS" for folder in (*OPEN[:5], "/boot")},
    "write into /run": "EACCES",
    **{f"write into {folder}": "done" for folder in OWN},
    **{f"{folder} is": "read-only" for folder in ("/proc/sys", "/sys", "/sys/fs/cgroup")},
    **{f"a socket of {name}": "EAFNOSUPPORT" for name in ("NETLINK", "PACKET", "VSOCK", "BLUETOOTH", "ALG")},
    **{f"a socket of {name}": "done" for name in ("INET", "INET6", "UNIX")},
    **{f"unshare {name}": "EPERM" for name in ("mount", "uts", "ipc", "user", "net")},
    **dict.fromkeys(
        ("mount", "umount", "chroot", "setns", "swap", "account", "reboot", "set the host's name"), "EPERM"
    ),
    **dict.fromkeys(("ptrace", "bpf", "perf_event_open", "init_module", "kexec_load", "set the clock"), "EPERM"),
    **dict.fromkeys(("become root", "change a file's owner", "set the suid bit", "change the personality"), "EPERM"),
    "be nicer": "done",
    "be less nice": "EACCES",  # training threads, and the process that tries a new model out
    **dict.fromkeys(("real-time priority", "choose cores", "read the kernel's log"), "EPERM"),
    **dict.fromkeys(("/home", "/root", "kernel modules"), "EACCES"),
    "others' processes": [],
    "read /proc/1/status": "ENOENT",
    **{f"read /proc/{name}": "done" for name in ("stat", "diskstats", "net/dev")},
    "capabilities": "0" * 16,
    "new privileges": "1",
    "filter": "2",
    "core dumps": 0,
    **dict.fromkeys(("callbacks from C", "a child process", "zstd", "Parquet"), "done"),
}
OF_ONE = {
    "edged@": {"write into /var/lib/edged": "done"},
    "edged-infer@": {"write into /var/lib/edged": "EROFS"},
}
DEVICES = {
    *("full", "null", "random", "urandom", "zero", "tty", "ptmx", "pts", "stdin", "stdout", "stderr", "fd"),
    *("char", "hugepages", "log", "mqueue", "shm"),
}
FREE = {
    **{f"write into {folder}": "done" for folder in OPEN[:5]},
    **dict.fromkeys(CODE, "done"),
    **dict.fromkeys(("a socket of NETLINK", "unshare user", "ptrace", "choose cores", "set the suid bit"), "done"),
    **dict.fromkeys(("be nicer", "change a file's owner", "change the personality"), "done"),
    "/sys/fs/cgroup is": "writable",
}
"""What the same user may do outside: these attempts fail for no other reason than the sandbox."""


@pytest.fixture(scope="module")
def probed_site(booted_site: BootedSite) -> BootedSite:
    booted_site.machine.run("install", "-d", "-m", "777", *OPEN)
    return booted_site


@pytest.mark.parametrize("unit", OF_ONE)
def test_a_unit_may_do_what_its_node_needs_and_nothing_else(probed_site, unit):
    found = probed_site.probe(f"{unit}probe")
    assert set(found.pop("devices")) <= DEVICES
    assert len(found.pop("users")) == 2  # root and the node's own, of all that the machine has
    assert found.pop("the runtime") == {252: "tflite-runtime", 257: "ai-edge-litert"}[probed_site.machine.systemd]
    assert found.pop("kernels").startswith("compiled")
    assert {found.pop(name) for name in CODE} <= {"EPERM", "EACCES"}  # by a filter, and from 255 on by the kernel
    assert found == OF_ALL | OF_ONE[unit]


def test_the_attempts_succeed_outside_of_the_sandbox(probed_site):
    found = probed_site.probe()
    assert {name: found[name] for name in FREE} == FREE
