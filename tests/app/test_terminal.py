"""A node that was started by hand ends when its terminal does, and saves what it has to; after nohup it goes on."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio
from dataclasses import replace
from edged.log import output
from tests.app.test_supervision import Node, Working
from tests.support.valid_topology import VALID

class Telling(Working):
    async def run(self):
        print("started", flush=True)
        try:
            while True:
                await node.in_use.other_than(node.in_use.topology)
                node.file = replace(VALID)
                print("reloaded", flush=True)
        finally:
            print("saved", flush=True)

output.configure(node="pi-a", tier="edge", run_id="r1")
node = Node(Telling())
node.file = replace(VALID)
print("code", asyncio.run(node.run()), flush=True)
"""


@pytest.fixture
def start():
    """Starts the program in a terminal of its own: the process, and what closes the terminal."""
    started, ours = [], set()

    def in_terminal(*, nohup):
        ends, terminal = os.openpty()
        ours.add(ends)

        def session():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal,
            text=True, preexec_fn=session,  # noqa: PLW1509 - only system calls
        )  # fmt: skip
        started.append(process)
        os.close(terminal)

        def close():
            ours.remove(ends)
            os.close(ends)

        return process, close

    yield in_terminal
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    for end in ours:
        os.close(end)


def test_the_end_of_the_terminal_is_a_clean_stop_and_any_other_hangup_a_reload(start):
    process, close = start(nohup=False)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "reloaded\n"
    close()
    assert process.communicate()[0] == "saved\ncode 0\n"
    assert process.returncode == 0


def test_after_nohup_a_node_outlives_its_terminal(start):
    process, close = start(nohup=True)
    assert process.stdout.readline() == "started\n"
    close()
    assert process.stdout.readline() == "reloaded\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == "saved\ncode 0\n"
