"""Calls of a client that may hang: deadlines, what is given up, and what comes after it."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

from edged.adapters.objects.bounded import BoundedClient, GivenUp
from edged.errors import ArchiveUnavailable


class Clock:
    now_s = 0.0

    def __init__(self) -> None:
        self._seen = threading.Event()

    def __call__(self) -> float:
        if threading.current_thread() is threading.main_thread():
            self._seen.set()
        return self.now_s

    def pass_by(self, seconds: float, client: BoundedClient[int]) -> None:
        """In a call that the main thread waits for: it has looked at the clock when this returns."""
        self.now_s += seconds
        self._seen.clear()
        client.call(lambda _client, _goes_on: None)  # whose end wakes all who wait
        self._seen.wait()


class Server:
    """Answers while `goes` is set; `num_clients`: made so far."""

    def __init__(self) -> None:
        self.goes = threading.Event()
        self.goes.set()
        self.asked = threading.Semaphore(0)
        self.num_clients = 0

    def client(self) -> int:
        self.num_clients += 1
        return self.num_clients

    def answer(self, client: int, _goes_on: object) -> int:
        self.asked.release()
        self.goes.wait()
        return client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.goes.set()


@pytest.fixture
def client(server: Server, clock: Clock) -> Iterator[BoundedClient[int]]:
    """Whose calls are given up at once, when they have not returned by then."""
    client = BoundedClient(server.client, "hdfs://nn:8020/edged", 0.0, clock)
    yield client
    client.close()


@pytest.fixture
def patient(server: Server) -> Iterator[BoundedClient[int]]:
    client = BoundedClient(server.client, "hdfs://nn:8020/edged", 3600.0)
    yield client
    client.close()


def hang(client: BoundedClient[int], server: Server) -> None:
    """One call that does not return."""
    server.goes.clear()
    with pytest.raises(ArchiveUnavailable, match="hdfs://nn:8020/edged: no answer for"):
        client.call(server.answer)
    server.asked.acquire()


def until_over(client: BoundedClient[int], server: Server) -> int:
    """What the first call returns that is made again."""
    while True:
        with contextlib.suppress(ArchiveUnavailable):
            return client.call(server.answer, num_bytes=3600 << 20)


def test_a_call_returns_what_the_client_gives_or_raises_what_it_raises(patient, server):
    def fail(_client: int, _goes_on: object) -> None:
        raise OSError("broken")

    assert patient.call(server.answer) == 1
    with pytest.raises(OSError, match="broken"):
        patient.call(fail)
    assert patient.call(server.answer) == 1


def test_calls_one_after_the_other_take_one_thread(patient, server):
    before = threading.active_count()

    for _ in range(50):
        patient.call(server.answer)

    # The thread of the call before may not be back yet when the next one begins.
    assert threading.active_count() - before <= 2


def test_its_threads_keep_no_process_alive(patient):
    assert patient.call(lambda _client, _goes_on: threading.current_thread().daemon)


def test_calls_at_the_same_time_do_not_wait_for_each_other(patient, server):
    server.goes.clear()
    waiting = [threading.Thread(target=patient.call, args=(server.answer,)) for _ in range(4)]
    for thread in waiting:
        thread.start()
    for _ in waiting:
        server.asked.acquire()

    assert patient.call(lambda client, _goes_on: client) == 1

    server.goes.set()
    for thread in waiting:
        thread.join()
    assert server.num_clients == 1


def test_while_one_is_given_up_others_fail_at_once_and_cost_no_thread(client, server):
    hang(client, server)
    before = threading.active_count()

    for _ in range(20):
        with pytest.raises(ArchiveUnavailable, match="a call has not returned for 0 s"):
            client.call(server.answer)

    assert threading.active_count() == before
    assert not server.asked.acquire(blocking=False)


def test_once_it_has_returned_the_same_client_goes_on(client, server):
    hang(client, server)

    server.goes.set()

    assert until_over(client, server) == 1


def test_a_client_that_hangs_for_long_is_replaced_less_and_less_often(client, server, clock):
    """The server's machine may be gone, and its end of the connection with it: then nothing ever comes."""
    tries_s = []
    hang(client, server)
    while clock.now_s < 3 * 3600:
        clock.now_s += 10
        try:
            client.call(server.answer)
        except ArchiveUnavailable as error:
            if "no answer" in str(error):
                server.asked.acquire()
                tries_s.append(clock.now_s)

    assert tries_s[:4] == [60.0, 180.0, 420.0, 900.0]
    assert len(tries_s) < 10
    server.goes.set()
    assert until_over(client, server) == 1 + len(tries_s)


@pytest.fixture
def timed(server: Server, clock: Clock) -> Iterator[BoundedClient[int]]:
    """With a deadline of 10 s by that clock."""
    client = BoundedClient(server.client, "s3://b", 10.0, clock)
    yield client
    client.close()


def test_progress_sets_the_deadline_anew(timed, clock):
    def slow(_client: int, goes_on) -> str:
        for _ in range(5):
            clock.pass_by(9, timed)
            goes_on()
        return "done"

    assert timed.call(slow) == "done"


def test_what_shows_no_progress_has_time_for_its_bytes(timed, clock):
    def read(_client: int, _goes_on: object) -> str:
        clock.pass_by(10 + 128 - 1, timed)
        return "done"

    def put(_client: int, goes_on) -> str:
        goes_on(128 << 20)
        clock.pass_by(10 + 128 - 1, timed)
        return "done"

    assert timed.call(read, num_bytes=128 << 20) == "done"
    assert timed.call(put) == "done"


def test_what_takes_longer_is_given_up(timed, clock, server):
    def slow(_client: int, goes_on) -> None:
        goes_on()
        clock.now_s += 11
        server.asked.release()
        with contextlib.suppress(ArchiveUnavailable):
            timed.call(lambda _client, _goes_on: None)
        server.goes.wait()

    server.goes.clear()
    with pytest.raises(ArchiveUnavailable, match="s3://b: no answer for 11 s"):
        timed.call(slow)


def test_what_was_given_up_is_told_so_and_undoes_itself(client, server):
    """So no writer publishes what its caller has long written again, or not."""
    undone = threading.Event()

    def publish(_client: int, goes_on) -> None:
        server.asked.release()
        server.goes.wait()
        try:
            goes_on()
        except GivenUp:
            undone.set()
            raise

    server.goes.clear()
    with pytest.raises(ArchiveUnavailable):
        client.call(publish)
    server.asked.acquire()
    server.goes.set()

    undone.wait()
    assert until_over(client, server) == 1


def test_the_end_is_not_held_up_by_a_call(patient, server):
    server.goes.clear()
    errors: list[str] = []

    def call() -> None:
        try:
            patient.call(server.answer)
        except ArchiveUnavailable as error:
            errors.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    server.asked.acquire()

    patient.close()

    thread.join()
    with pytest.raises(ArchiveUnavailable, match="stopping"):
        patient.call(server.answer)
    assert errors == ["hdfs://nn:8020/edged: this node is stopping"]


def test_a_client_that_cannot_be_made_is_made_at_the_next_call(server):
    refused = [OSError("no such file")]

    def make():
        if refused:
            raise refused.pop()
        return server.client()

    client = BoundedClient(make, "hdfs://nn:8020/edged")
    with pytest.raises(OSError, match="no such file"):
        client.call(server.answer)

    assert client.call(server.answer) == 1
    client.close()


def test_a_panic_of_a_client_is_an_error_like_others(patient):
    class PanicException(BaseException):
        pass

    def panic(_client: int, _goes_on: object) -> None:
        raise PanicException("no reactor running")

    with pytest.raises(RuntimeError, match="PanicException: no reactor running"):
        patient.call(panic)


def test_without_a_thread_it_is_told_what_the_system_lacks(patient, server, monkeypatch):
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    with pytest.raises(ArchiveUnavailable, match=r"starts no thread.*TasksMax"):
        patient.call(server.answer)
