"""What a process may do where it runs, tried out: prints a JSON object for each attempt.

Run by a unit in place of its program, by that one's Python. An attempt is "done", or the name of the error that it met,
or what it found. Imports nothing of the tests, which are not on the machine.
"""

import ctypes
import errno
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_READ, _WRITE, _EXECUTE, _PRIVATE, _ANONYMOUS = 1, 2, 4, 2, 32
_FAILED = ctypes.c_void_p(-1).value
_NEW_NAMESPACES = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "net": 0x40000000}
_NUMBERS = {"x86_64": {"bpf": 321, "perf_event_open": 298, "init_module": 175, "kexec_load": 246}}

Attempt = Callable[[], object]

OWN = {str(os.getpid())}
"""The processes of this program that an attempt may see."""


def call(name: str, *arguments: object) -> Attempt:
    """A function of the C library."""

    def attempt() -> None:
        if getattr(_LIBC, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)

    return attempt


def system_call(name: str, *arguments: object) -> Attempt:
    """One that the C library has no function for."""
    return call("syscall", _NUMBERS[os.uname().machine][name], *arguments)


def write_into(folder: str) -> Attempt:
    return lambda: tempfile.TemporaryFile(dir=folder).close()


def read_only(folder: str) -> Attempt:
    return lambda: "read-only" if os.statvfs(folder).f_flag & os.ST_RDONLY else "writable"


def read(path: str) -> Attempt:
    return lambda: None if Path(path).read_text() else "nothing"


def names(folder: str) -> list[str]:
    return sorted(each.name for each in Path(folder).iterdir())


def open_socket(family: int) -> Attempt:
    kind = (
        socket.SOCK_RAW if family in {socket.AF_NETLINK, socket.AF_PACKET, socket.AF_BLUETOOTH} else socket.SOCK_STREAM
    )
    return lambda: socket.socket(family, kind).close()


def map_writable_code() -> None:
    size = resource.getpagesize()
    if _LIBC.mmap(None, size, _READ | _WRITE | _EXECUTE, _PRIVATE | _ANONYMOUS, -1, 0) == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap")


def make_memory_code() -> None:
    size = resource.getpagesize()
    page = _LIBC.mmap(None, size, _READ | _WRITE, _PRIVATE | _ANONYMOUS, -1, 0)
    if _LIBC.mprotect(ctypes.c_void_p(page), size, _READ | _EXECUTE) == -1:
        raise OSError(ctypes.get_errno(), "mprotect")


def set_suid() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.fchmod(file.fileno(), 0o4755)


def change_owner() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.fchown(file.fileno(), os.getuid(), os.getgid())


def status(field: str) -> Attempt:
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))
    return lambda: value


def call_back() -> None:
    """As libffi does it: its trampolines want executable memory, in which nothing is written."""
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    _LIBC.qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
    assert list(numbers) == [1, 2, 3]


def child_process() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def runtime() -> str:
    """What the companion runs models by: with XNNPACK, which wants memory for code, or numpy."""
    from edged.adapters.tflite.runtime import check_runtime  # noqa: PLC0415 - not needed by other attempts

    return check_runtime()[0]


def kernels() -> str:
    from edged.adapters.kernels.backend import compiled  # noqa: PLC0415 - not needed by other attempts

    return compiled().name


def compress() -> None:
    import cramjam  # noqa: PLC0415 - not needed by other attempts

    assert bytes(cramjam.zstd.decompress(cramjam.zstd.compress(b"x" * 1000))) == b"x" * 1000


def parquet() -> None:
    import pyarrow as pa  # noqa: PLC0415 - not needed by other attempts
    import pyarrow.parquet as pq  # noqa: PLC0415 - not needed by other attempts

    with tempfile.NamedTemporaryFile() as file:
        pq.write_table(pa.table({"x": [1, 2, 3]}), file.name, compression="zstd")
        assert pq.read_table(file.name).num_rows == 3


def nicer_thread() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)


def less_nice_thread() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 5)


ATTEMPTS: dict[str, Attempt] = {
    "map memory that is written and run": map_writable_code,
    "make written memory code": make_memory_code,
    **{
        f"write into {folder}": write_into(folder)
        for folder in (
            *("/etc/open", "/usr/open", "/opt/open", "/srv/open", "/var/open", "/boot", "/run"),
            *("/var/lib/edged", "/var/cache/edged", "/tmp", "/var/tmp", "/dev/shm"),  # noqa: S108 - that is the question
        )
    },
    **{f"{folder} is": read_only(folder) for folder in ("/proc/sys", "/sys", "/sys/fs/cgroup")},
    **{
        f"a socket of {name}": open_socket(getattr(socket, f"AF_{name}"))
        for name in ("NETLINK", "PACKET", "VSOCK", "BLUETOOTH", "ALG", "INET", "INET6", "UNIX")
    },
    **{f"unshare {name}": call("unshare", flag) for name, flag in _NEW_NAMESPACES.items()},
    "mount": call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "umount": call("umount2", b"/tmp", 0),
    "chroot": lambda: os.chroot("/"),
    "setns": call("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0),
    "ptrace": call("ptrace", 0, 0, None, None),
    "bpf": system_call("bpf", 0, 0, 0),
    "perf_event_open": system_call("perf_event_open", 0, 0, -1, -1, 0),
    "init_module": system_call("init_module", 0, 0, b""),
    "kexec_load": system_call("kexec_load", 0, 0, 0, 0),
    "become root": lambda: os.setuid(0),
    "change a file's owner": change_owner,
    "set the suid bit": set_suid,
    "real-time priority": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "choose cores": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "be nicer": nicer_thread,
    "be less nice": less_nice_thread,
    "set the clock": call("clock_settime", 0, ctypes.byref((ctypes.c_long * 2)(1, 0))),
    "set the host's name": call("sethostname", b"x", 1),
    "reboot": call("reboot", 0),
    "swap": call("swapon", b"/tmp/none", 0),
    "account": call("acct", None),
    "read the kernel's log": call("klogctl", 10, None, 0),
    "change the personality": call("personality", 0x0040000),
    "others' processes": lambda: sorted({each for each in names("/proc") if each.isdecimal()} - OWN),
    "/home": lambda: names("/home"),
    "/root": lambda: names("/root"),
    "kernel modules": lambda: names("/usr/lib/modules"),
    "devices": lambda: names("/dev"),
    "capabilities": status("CapBnd"),
    "new privileges": status("NoNewPrivs"),
    "filter": status("Seccomp"),
    "users": lambda: sorted(line.split()[0] for line in Path("/proc/self/uid_map").read_text().splitlines()),
    "core dumps": lambda: resource.getrlimit(resource.RLIMIT_CORE)[1],
    "callbacks from C": call_back,
    "a child process": child_process,
    "the runtime": runtime,
    "kernels": kernels,
    "zstd": compress,
    "Parquet": parquet,
    **{f"read {path}": read(path) for path in ("/proc/stat", "/proc/diskstats", "/proc/net/dev", "/proc/1/status")},
}


def outcome(attempt: Attempt) -> object:
    try:
        found = attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:  # noqa: BLE001 - whatever it met is what is asked for
        return f"{type(error).__name__}: {error}"
    return "done" if found is None else found


def alone(attempt: Attempt) -> object:
    """What becomes of it in a child process: it may change what this process is allowed."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        OWN.add(str(os.getpid()))
        os.write(tell, json.dumps(outcome(attempt)).encode())
        os._exit(0)
    os.close(tell)
    with open(told) as answer:  # noqa: PTH123 - a descriptor
        text = answer.read()
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(text) if text else f"ended with {end}"


def main() -> None:
    for name, attempt in ATTEMPTS.items():
        print(json.dumps({name: alone(attempt)}), flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    main()
