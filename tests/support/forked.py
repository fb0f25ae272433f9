"""Processes of edged that are forked from one that has imported it, for `asyncio.create_subprocess_exec` and the like.

A command that begins with FORKED is the arguments of `edged`, or of Python from `-m` on. What needs a process of its
own from the first instruction on (a preloaded library, memory that is measured) is started as ever.
"""

import asyncio
import asyncio.unix_events
import atexit
import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edged.adapters.tflite import proof
from edged.cli.demo.processes import Child

FORKED = "edged, forked"

_PR_SET_CHILD_SUBREAPER = 36
_own_server: socket.socket | None = None


async def start_forked(name: str, *arguments: str, environment: Mapping[str, str]) -> Child:
    """As `Child.start`."""
    child = Child(name)
    await asyncio.get_running_loop().subprocess_exec(
        lambda: child, FORKED, *arguments, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    return child


class _Forked(subprocess.Popen[bytes]):
    """Only how the child comes into being is another: pipes, waiting and signals are `Popen`'s."""

    def _execute_child(self, args: Sequence[str], *options: Any) -> None:
        (_executable, _preexec, _close, _pass, cwd, env, _startup, _flags, _shell, *pipes) = options
        p2cread, _p2cwrite, _c2pread, c2pwrite, _errread, errwrite, *_ = pipes
        own = [(p2cread, 0), (c2pwrite, 1), (errwrite, 2)]
        request = json.dumps((list(args[1:]), dict(os.environ if env is None else env), str(cwd or Path.cwd())))
        server = _server()
        socket.send_fds(server, [request.encode()], [stream if fd == -1 else fd for fd, stream in own])
        self.pid = int(server.recv(32))
        self._child_created = True
        for fd, _ in own:
            if fd != -1:
                os.close(fd)


def fork_all_by(server: socket.socket) -> None:
    """In a process that was forked itself: have what it starts of edged forked by this server, which ends with it."""
    global _own_server  # noqa: PLW0603 - there is one for each process
    _become_subreaper()
    _own_server = server
    _let_popen_fork(proof)


def _become_subreaper() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


@functools.cache
def _server() -> socket.socket:
    """The connection to this process's fork server, which ends with this process."""
    if _own_server is not None:
        return _own_server
    _become_subreaper()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno()), str(os.getpid())]
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    atexit.register(process.wait)
    atexit.register(ours.close)  # before: it ends the process
    return ours


def _popen(args: Any, **options: Any) -> subprocess.Popen[bytes]:
    if _own_server is not None and "-m" in args and (module := args[args.index("-m") + 1]).startswith("edged"):
        args = [FORKED, *args[args.index(module) + 1 :]] if module == "edged" else [FORKED, *args[args.index("-m") :]]
    kind = _Forked if args and args[0] == FORKED else subprocess.Popen
    return kind(args, **options)


def _let_popen_fork(module: Any) -> None:
    """Have this module, which has imported `subprocess`, start its processes by `_popen`."""
    module.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _popen})


_let_popen_fork(asyncio.unix_events)
