"""The controlling terminal of a process that somebody started by hand (credentials(7), tty(4))."""

import os


def has_terminal() -> bool:
    """Whether there is one. None any more once its window is closed or its connection has ended."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
