"""Puts a node together: adapters, services, and the one TaskGroup in which tasks are born.

Covers start, readiness, stopping and the order of both. What a service does is its own module's subject.
"""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from edged import __version__
from edged.config import Timing
from edged.log import logger
from edged.ports import Progress, Statistics


class Service(Protocol):
    """What app.py runs and the monitor watches."""

    async def run(self) -> None:
        """Work until cancelled; raise only for what a restart may mend."""

    def progress(self) -> Progress: ...

    def statistics(self) -> Statistics: ...
