"""The priority of threads that compute, below that of the process's other threads.

Linux alone has priorities per thread. See also: the unit edged@.service, whose system call filter lets this through.
"""

import os
import sys
import threading

from edged.log import logger

_NICER_BY = 5
_NICEST = 19


class LowerPriority:
    """Makes threads give way to the process's main thread, on which the event loop runs."""

    def __init__(self) -> None:
        self._unlogged = threading.Lock()  # taken by the first thread that is refused

    def lower(self) -> None:
        """Make the calling thread nicer than the main thread by 5. The first refusal is logged, and none is raised."""
        if sys.platform != "linux":
            return
        main = os.getpriority(os.PRIO_PROCESS, os.getpid())
        niceness = min(main + _NICER_BY, _NICEST)
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        except OSError as error:
            if self._unlogged.acquire(blocking=False):
                logger().warning("res.priority_refused", niceness=niceness, err=str(error))
