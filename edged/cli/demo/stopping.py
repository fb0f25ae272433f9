"""SIGTERM and a closed session end a command as Ctrl-C does, so that one way of cleaning up serves all."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Stop:
    """Which signal asked for the end; SIGINT unless it was another."""

    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """As a shell reports a command that a signal ended."""
        return 128 + self.number


@contextlib.contextmanager
def by_signals() -> Iterator[Stop]:
    """Inside, SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, within `asyncio.run` by cancellation.

    An ignored SIGHUP, as under nohup, stays ignored. Of several the first counts: a closed session sends two.
    """
    stop = Stop()
    asked = False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if number == signal.SIGHUP:
            _write_to_nobody()
        if not asked:
            asked, stop.number = True, number
            signal.raise_signal(signal.SIGINT)

    # Not ignored, as a shell's background jobs have it: the other signals go this way.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: end}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = end
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_to_nobody() -> None:
    """A closed terminal fails every write, also those on the way to a clean end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
