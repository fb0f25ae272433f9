"""The machine's name. Loads nothing, for `edged check` asks for it."""

import os
import socket


def host_name() -> str:
    """The machine's name, as other machines' people know it. Linux allows bytes that are no text: "\ufffd" for them."""
    return os.fsencode(socket.gethostname()).decode(errors="replace")
