"""A process that has imported all of edged and forks nodes from itself: the import is half of what a short node costs.

Run by `forked`, one for each worker: `python -m tests.support.fork_server SOCKET WORKER`. A node is a process as any
other; it only has no command line of its own. It becomes a child of the worker, which must be a subreaper. A demo has
a server of its own, a copy of itself, for the nodes that it starts, and a companion has one for its trials of model
files.
"""

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import pkgutil
import random
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import edged
from edged import cli
from edged.adapters.tflite.interpreter import interpreter_class

_STARTERS = {"demo", "infer"}
_MAX_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork a node for each request; end with the worker."""
    for module in pkgutil.walk_packages(edged.__path__, "edged."):
        with contextlib.suppress(ImportError):  # an extra that is missing; or the kernels, which are no module
            import_module(module.name)
    with contextlib.suppress(ImportError):
        interpreter_class()
    gc.collect()
    gc.freeze()  # the nodes' collections leave the common pages as they are
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))


def _serve(requests: socket.socket, worker: int) -> None:
    while True:
        data, fds, _, _ = socket.recv_fds(requests, _MAX_BYTES, 3)
        if not data:
            return
        arguments, environment, cwd = json.loads(data)
        pid = _forked_twice(worker, arguments, environment, cwd, fds)
        for fd in fds:
            os.close(fd)
        requests.send(str(pid).encode())


def _forked_twice(
    worker: int, arguments: Sequence[str], environment: dict[str, str], cwd: str, fds: Sequence[int]
) -> int:
    """The pid of a node whose parent has ended, so that it is the worker's child."""
    read, write = os.pipe()
    between = os.fork()
    if not between:
        node = os.fork()
        if not node:
            _become_node(worker, arguments, environment, cwd, fds)
        os.write(write, str(node).encode())
        os._exit(0)
    os.waitpid(between, 0)
    node = int(os.read(read, 32))
    os.close(read)
    os.close(write)
    return node


def _become_node(
    worker: int, arguments: Sequence[str], environment: dict[str, str], cwd: str, fds: Sequence[int]
) -> NoReturn:
    try:
        os.setsid()
        while os.getppid() != worker:  # the process between ends at once
            time.sleep(0.001)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(len(fds), 4096)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - the server's own believe that they can seek
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - as above
        faulthandler.disable()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(cwd)
        random.seed()
        _run(arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException:  # noqa: BLE001 - nothing is above it
        traceback.print_exc()
    finally:
        os._exit(os.EX_SOFTWARE)


def _run(arguments: Sequence[str]) -> NoReturn:
    """What follows `python` or `edged` on a command line."""
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        sys.modules.pop(arguments[1], None)
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        sys.exit()
    sys.argv = ["edged", *arguments]
    if arguments[0] in _STARTERS:
        _let_fork()
    cli.run_and_exit()


def _let_fork() -> None:
    """Let this process, which is to start others, have them forked from a copy of itself as it is now."""
    from tests.support import forked  # noqa: PLC0415 - changes how asyncio starts processes

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    starter = os.getpid()
    if not os.fork():
        ours.close()
        _serve(theirs, starter)
        os._exit(0)
    theirs.close()
    forked.fork_all_by(ours)


if __name__ == "__main__":
    main()
