"""Executors on a machine that gives a process only so many threads."""

import os
import subprocess
import sys
import threading

import pytest

from edged.errors import NoThread
from edged.shared_work import SharedWork, spread
from edged.threads import ThreadPool
from tests.support.requirements import require


@pytest.fixture
def at_most(monkeypatch):
    """Lets the system start so many threads from here on."""

    def limit(number):
        start = threading.Thread.start
        started: list[threading.Thread] = []

        def limited(thread):
            if len(started) >= number:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return limit


def with_thread(number: int) -> tuple[int, int]:
    return number, threading.get_ident()


@pytest.mark.parametrize("number", [1, 2])
def test_fewer_threads_do_all_and_that_is_said_once(number, at_most, log_lines):
    at_most(number)
    with ThreadPool(3, "lane") as pool:
        parts = threading.Barrier(number + 1)
        waiting = [pool.submit(parts.wait) for _ in range(number)]
        results = [pool.submit(with_thread, n) for n in range(10)]
        parts.wait()
        done = [each.result() for each in results]
    assert [n for n, _ in done] == list(range(10))
    assert len({ident for _, ident in done}) <= number
    assert all(each.done() for each in waiting)
    [line] = log_lines("life.few_threads")
    assert (line["threads"], line["wanted"], line["err"]) == (number, 3, "can't start new thread")


def test_work_is_spread_over_what_there_is(at_most):
    at_most(1)
    go_on = threading.Event()
    with ThreadPool(3) as pool:
        pool.submit(go_on.wait)
        work = SharedWork(lambda n: n, range(5))
        spread(work, pool)
        assert work.results() == list(range(5))
        go_on.set()


def test_no_thread_at_all_is_an_error_that_says_what_to_do(at_most):
    at_most(0)
    with pytest.raises(NoThread, match=r"the system starts no thread \(can't start new thread\): raise TasksMax="):
        ThreadPool(3)


def test_with_threads_to_spare_there_are_as_many_as_are_wanted(log_lines):
    with ThreadPool(3, "lane") as pool:
        meeting = threading.Barrier(3)
        assert sorted(each.result() for each in [pool.submit(meeting.wait) for _ in range(3)]) == [0, 1, 2]
    assert not log_lines("life.few_threads")


LIMITED = """
import os, resource, sys
from edged.log import logger
from edged.threads import ThreadPool
logger().warning("imports what it needs, which the user may not read")
os.setgroups([]); os.setgid(61234); os.setuid(61234)
resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
with ThreadPool(4) as pool:
    print(sum(pool.map(abs, range(1000), chunksize=1)), len(pool._threads))
"""


@pytest.mark.usefixtures("process")
def test_the_limit_of_a_user_is_such_a_limit():
    if os.geteuid() != 0:
        require("root, who can be another user")
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LIMITED], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["499500", "1"]), done.stderr
