"""Work that several threads do together."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edged.shared_work import SharedWork, spread


def test_without_helpers_it_is_done_by_whoever_needs_it():
    work = SharedWork(lambda n: (n, threading.get_ident()), range(3))
    assert work.results() == [(n, threading.get_ident()) for n in range(3)]


def test_each_part_is_done_once_and_the_results_are_in_order():
    done = []
    with ThreadPoolExecutor(4) as executor:

        def part(n):
            done.append(n)
            return n

        work = SharedWork(part, range(100))
        spread(work, executor)
        assert work.results() == list(range(100))
    assert sorted(done) == list(range(100))


def test_it_ends_also_when_all_the_executors_threads_are_busy():
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(go_on.wait)
        work = SharedWork(lambda n: n, range(3))
        spread(work, executor)
        assert work.results() == [0, 1, 2]
        go_on.set()


def test_it_ends_in_a_thread_of_the_executor_itself():
    with ThreadPoolExecutor(1) as executor:

        def within():
            work = SharedWork(lambda n: n, range(3))
            spread(work, executor)
            return work.results()

        assert executor.submit(within).result() == [0, 1, 2]


def test_an_error_is_raised_when_all_parts_have_ended():
    ended = []

    def part(n):
        if n == 0:
            raise ValueError("part 0")
        ended.append(n)

    work = SharedWork(part, range(3))
    with pytest.raises(ValueError, match="part 0"):
        work.results()
    assert ended == [1, 2]


def test_helpers_do_what_comes_next_when_no_part_is_left():
    thens = []
    with ThreadPoolExecutor(2) as executor:
        spread(SharedWork(lambda n: n, range(2)), executor, lambda: thens.append(threading.get_ident()))
    assert len(thens) == 1
