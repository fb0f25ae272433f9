"""The archive's objects as files of a local folder, or of a distributed file system that is mounted there.

Belongs here: the file system's calls, and their order, which makes a file durable. Does not: what all kinds of stores
have in common (`adapters.objects`).
"""

from edged.adapters.local.backend import local_store

__all__ = ["local_store"]
