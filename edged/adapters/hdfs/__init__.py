"""The archive's objects as files of HDFS, by hdfs-native: no JVM, no libhdfs.

Belongs here: its client, what it gets wrong, and what its errors mean. Does not: what all kinds of stores have in
common (`adapters.objects`).
"""

from edged.adapters.hdfs.backend import hdfs_store

__all__ = ["hdfs_store"]
