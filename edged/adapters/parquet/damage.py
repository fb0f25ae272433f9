"""What foreign errors mean, met while an archive's file is read: damage, or another version of edged."""

import contextlib
from collections.abc import Iterator

from edged.adapters.parquet import file as parquet_file
from edged.errors import AnotherVersion, StorageError


class CorruptFileError(StorageError):
    """The bytes could be read and are not what they should be."""


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Translate foreign exceptions into edged's, with the path. The store's own pass: an outage is no damage."""
    try:
        yield
    except AnotherVersion as error:  # kept where it is
        raise StorageError(f"{path}: {error}") from error
    except (OSError, *parquet_file.CORRUPTION) as error:  # pyarrow has OSError, too
        raise CorruptFileError(f"{path}: {error}") from error
