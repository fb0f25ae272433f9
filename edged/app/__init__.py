"""Puts a node together: adapters, services, and the one TaskGroup in which tasks are born.

`node` says what a node of each tier consists of; `supervision` starts it, keeps it ready, and stops it in order.
What a service does is its own module's subject.
"""

from edged.app.companion import run_companion
from edged.app.node import run_node

__all__ = ["run_companion", "run_node"]
