"""The store of an archive's objects, by the kind of its URL."""

import secrets
from typing import TYPE_CHECKING

from edged.domain.topology import Archive, Topology

if TYPE_CHECKING:  # only an archive node loads a client, and only its own
    from edged.adapters.parquet.store import ParquetStore
    from edged.ports import ObjectStore


def object_store(archive: Archive, writer: str) -> "ObjectStore":
    """The store at the archive's URL, which has been checked. `writer`: a name that no other process has meanwhile.

    Nothing is asked of it yet. Raises ModuleNotFoundError without the extra that has its client, see `edged.extras`.
    """
    kind = archive.url.partition("://")[0]
    if kind == "hdfs":
        from edged.adapters.hdfs import hdfs_store  # noqa: PLC0415 - see above

        return hdfs_store(archive.url, archive.hdfs, writer)
    if kind == "s3":
        from edged.adapters.s3 import s3_store  # noqa: PLC0415 - see above

        return s3_store(archive.url, archive.s3, writer)
    from edged.adapters.local import local_store  # noqa: PLC0415 - see above

    return local_store(archive.url, writer)


def open_archive(topology: Topology, objects: "ObjectStore | None" = None) -> "ParquetStore":
    """The topology's archive, for a command: in `objects`, or in a store of its own, whose calls end with the process.

    Raises ModuleNotFoundError as `object_store` does.
    """
    from edged.adapters.parquet.store import ParquetStore  # noqa: PLC0415 - see above

    return ParquetStore(objects or command_store(topology), topology.site)


def command_store(topology: Topology) -> "ObjectStore":
    """The store of the topology's archive, for a command."""
    return object_store(topology.archive[0], f"command-{secrets.token_hex(4)}")
