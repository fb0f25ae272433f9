"""Calls of a client that may hang: each ends by its deadline, and a client that hangs costs one call, not one a try.

A thread cannot be ended from outside, so a call that does not return is given up: its thread is a daemon, which no end
of the process waits for. See also: `edged.threads` (threads whose work is waited for).
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from edged.errors import ArchiveUnavailable

DEADLINE_S = 8.0
"""Without progress; below the 10 s promised for telling of a store that hangs."""

SLOWEST = 1 << 20
"""Bytes in a second of a link that is still worth waiting for, where progress does not show."""

_FIRST_TRIAL_S = 60.0
_LAST_TRIAL_S = 3600.0
"""After so long another client is tried, though the call has not returned: the server's end may be gone for good. The
wait doubles each time, so that a day's hang costs some thirty threads."""

C = TypeVar("C")
R = TypeVar("R")


class GoesOn(Protocol):
    """To be called at each progress, from inside a call: begins its deadline again. Raises `GivenUp` after that.

    `num_bytes`: that come or go before the next progress shows.
    """

    def __call__(self, num_bytes: int = 0) -> None: ...


class GivenUp(Exception):  # noqa: N818 - it ends what nobody waits for any more
    """Nobody waits for the call: what it has begun is to be undone."""


class _Call:
    """One call: what it is to do, by when, and what became of it."""

    def __init__(self, function: Callable[[GoesOn], Any], began_s: float, until_s: float) -> None:
        self.function = function
        self.began_s = began_s
        self.until_s = until_s
        self.is_given_up = False
        self.is_over = False
        self.result: Any = None
        self.error: Exception | None = None


class BoundedClient(Generic[C]):
    """A client of a store, made when it is needed. Thread-safe.

    `make`: makes one; it may hang as any call. `where`: for messages. A call raises what its function raised;
    ArchiveUnavailable when it takes longer than it may, at once while another one is given up, and after `close`.
    """

    def __init__(
        self,
        make: Callable[[], C],
        where: str,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._where = where
        self._deadline_s = deadline_s
        self._clock = clock
        self._changed = threading.Condition()
        self._work: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._idle = 0
        self._given_up: list[_Call] = []
        self._trial_s = _FIRST_TRIAL_S
        self._is_closed = False
        self._client: _Once[C] = _Once(make)

    def call(self, function: Callable[[C, GoesOn], R], num_bytes: int = 0) -> R:
        """What `function` makes of the client. `num_bytes`: as of `GoesOn`."""
        with self._changed:
            call = self._begin(function, num_bytes)
            while not call.is_over:
                left_s = call.until_s - self._clock()
                if self._is_closed or left_s <= 0:
                    raise self._give_up(call)
                self._changed.wait(left_s)
        if call.error is not None:
            raise call.error
        result: R = call.result
        return result

    def close(self) -> None:
        """All calls fail, and the idle threads end."""
        with self._changed:
            self._is_closed = True
            for _ in range(self._idle):
                self._work.put(None)
            self._changed.notify_all()

    def _begin(self, function: Callable[[C, GoesOn], R], num_bytes: int) -> _Call:
        now_s = self._clock()
        if self._is_closed:
            raise ArchiveUnavailable(f"{self._where}: this node is stopping")
        self._pass_given_up(now_s)
        client = self._client
        call = _Call(lambda goes_on: function(client.get(), goes_on), now_s, self._until_s(num_bytes))
        if self._idle:
            self._idle -= 1
            self._work.put(call)
            return call
        try:
            threading.Thread(target=self._run, args=(call,), name="archive", daemon=True).start()
        except RuntimeError as error:
            raise ArchiveUnavailable(
                f"{self._where}: the system starts no thread ({error}): raise TasksMax= of the unit, or free memory"
            ) from error
        return call

    def _until_s(self, num_bytes: int) -> float:
        return self._clock() + self._deadline_s + num_bytes / SLOWEST

    def _pass_given_up(self, now_s: float) -> None:
        """Raise while a call is given up; a new client takes the place of one that has hung for long enough."""
        if not self._given_up:
            return
        self._given_up = [call for call in self._given_up if not call.is_over]
        if not self._given_up:
            self._trial_s = _FIRST_TRIAL_S
            return
        hangs_s = now_s - self._given_up[0].began_s
        if hangs_s < self._trial_s:
            raise ArchiveUnavailable(
                f"{self._where}: a call has not returned for {hangs_s:.0f} s; until it does nothing else is tried"
            )
        self._given_up = []
        self._client = _Once(self._make)
        self._trial_s = min(2 * self._trial_s, _LAST_TRIAL_S)

    def _give_up(self, call: _Call) -> ArchiveUnavailable:
        call.is_given_up = True
        if self._is_closed:
            return ArchiveUnavailable(f"{self._where}: this node is stopping")
        self._given_up.append(call)
        waited_s = self._clock() - call.began_s
        return ArchiveUnavailable(
            f"{self._where}: no answer for {waited_s:.0f} s: is its server overloaded, paused, or cut off?"
        )

    def _run(self, call: _Call | None) -> None:
        """Do this call and those that follow."""
        while call is not None:
            self._do(call)
            with self._changed:
                call.is_over = True
                self._changed.notify_all()
                if self._is_closed:
                    return
                self._idle += 1
            call = None  # its result is somebody's bytes
            call = self._work.get()

    def _do(self, call: _Call) -> None:
        def goes_on(num_bytes: int = 0) -> None:
            with self._changed:
                if call.is_given_up:
                    raise GivenUp
                call.until_s = self._until_s(num_bytes)

        try:
            call.result = call.function(goes_on)
        except Exception as error:  # noqa: BLE001 - for whoever waits
            call.error = error
        except BaseException as error:  # noqa: BLE001 - a panic of a client in Rust is no Exception
            call.error = RuntimeError(f"{type(error).__name__}: {error}")


class _Once(Generic[C]):
    """What `make` makes, once."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: C | None = None

    def get(self) -> C:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made
