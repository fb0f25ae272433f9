"""The store of an archive's objects, by the kind of its URL."""

from typing import TYPE_CHECKING

from edged.domain.topology import Archive
from edged.errors import ConfigError, Problem

if TYPE_CHECKING:  # only an archive node loads a client, and only its own
    from edged.ports import ObjectStore


def object_store(archive: Archive, writer: str) -> "ObjectStore":
    """The store at the archive's URL, which has been checked. `writer`: a name that no other process has meanwhile.

    Raises ConfigError when the extra with its client is not installed. Nothing is asked of the store yet.
    """
    kind = archive.url.partition("://")[0]
    try:
        if kind == "hdfs":
            from edged.adapters.hdfs import hdfs_store  # noqa: PLC0415 - see above

            return hdfs_store(archive.url, archive.hdfs, writer)
        if kind == "s3":
            from edged.adapters.s3 import s3_store  # noqa: PLC0415 - see above

            return s3_store(archive.url, archive.s3, writer)
    except ModuleNotFoundError as error:
        problem = Problem("archive[0].url", f"{kind}:// needs {error.name}", f"install edged with its extra `{kind}`")
        raise ConfigError((problem,)) from error
    from edged.adapters.local import local_store  # noqa: PLC0415 - see above

    return local_store(archive.url, writer)
