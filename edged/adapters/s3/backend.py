"""The backend of `ports.ObjectStore` on S3.

An object is put by one request, never in parts: so there is nothing unfinished that would cost room unseen, and
If-None-Match is one answer. A version of an object that is not the newest is none here.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from edged.adapters.objects.bounded import DEADLINE_S, SLOWEST, GoesOn
from edged.adapters.objects.store import Store
from edged.adapters.s3.reasons import translated
from edged.domain.topology import S3Access
from edged.ports.objects import Listed

_CONNECT_S = 3
_SILENCE = 0.6
"""Of the deadline, for a server that is read from; then it is asked once more."""

_LONGEST_READ_S = 600
_PER_PAGE = 1000
_BEYOND = re.compile(r"416 |InvalidRange")
_VERSIONS = (
    "the bucket keeps object versions: what retention and compaction delete goes on costing room, until a lifecycle"
    " rule of the bucket expires noncurrent versions"
)
_NOTHING = "edged-nothing-has-this-name"
"""Nor begins with it: listing it asks for the bucket alone."""


def s3_store(url: str, access: S3Access, writer: str, deadline_s: float = DEADLINE_S) -> Store:
    """The store at s3://bucket/folder."""
    parts = urlsplit(url)
    root = f"s3://{parts.netloc}{parts.path}".rstrip("/")
    where = f"{root} at {access.endpoint}" if access.endpoint else root
    return Store(
        where,
        lambda: _Bucket(parts.netloc, parts.path.strip("/"), access, deadline_s),
        lambda error, name: translated(error, f"{where}{': ' + name if name else ''}", parts.netloc, access),
        writer,
        deadline_s,
        root,
    )


class _Bucket:
    """A `Backend`."""

    def __init__(self, bucket: str, prefix: str, access: S3Access, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        silence_s = _SILENCE * deadline_s
        self._arguments = _arguments(bucket, prefix, access, silence_s)
        self._store = self._client(timeout=_LONGEST_READ_S, read_timeout=silence_s)
        self._lock = threading.Lock()
        self._putting: dict[int, S3Store] = {}

    def put(self, name: str, pieces: Sequence[bytes | memoryview], goes_on: GoesOn) -> bool:
        views = [memoryview(piece).cast("B") for piece in pieces]
        num_bytes = sum(view.nbytes for view in views)
        client = self._for_put(num_bytes)
        goes_on(num_bytes)
        try:
            obstore.put(client, name, views, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        if not length:
            return b"" if self.size(name) is not None else None
        try:
            return bytes(obstore.get_range(self._store, name, start=offset, length=length))
        except FileNotFoundError:
            return None
        except BaseError as error:
            if _BEYOND.search(str(error)):
                return b""
            raise

    def size(self, name: str) -> int | None:
        try:
            return int(obstore.head(self._store, name)["size"])
        except FileNotFoundError:
            return None
        except BaseError:
            self.require_place()  # the answer to a HEAD has no words
            raise

    def pages(self, folder: str, after: str) -> Iterator[Sequence[Listed]]:
        offset = f"{folder}/{after}" if after else None
        for page in obstore.list(self._store, folder, offset=offset, chunk_size=_PER_PAGE):
            names = ((each["path"][len(folder) + 1 :], each["size"]) for each in page)
            yield [Listed(name, size) for name, size in names if name and "/" not in name and name > after]

    def folders(self, folder: str) -> Sequence[str]:
        found = obstore.list_with_delimiter(self._store, folder or None)
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"]]

    def delete(self, name: str) -> None:
        obstore.delete(self._store, name)

    def sweep(self, folder: str) -> None:
        """Nothing is ever left."""

    def create(self) -> None:
        self.require_place()

    def require_place(self) -> None:
        for _ in obstore.list(self._store, _NOTHING):
            pass

    def notes(self, name: str) -> Sequence[str]:
        version = obstore.get(self._store, name, options={"head": True}).meta.get("version")
        if version and version != "null":
            return (_VERSIONS,)
        return ()

    def _for_put(self, num_bytes: int) -> S3Store:
        """The client for objects of about that size: its requests end by themselves, some time after their deadline."""
        megabytes = 1 << (num_bytes // SLOWEST).bit_length()
        with self._lock:
            if megabytes not in self._putting:
                self._putting[megabytes] = self._client(timeout=round(self._deadline_s) + megabytes)
            return self._putting[megabytes]

    def _client(self, **timeouts: float) -> S3Store:
        options = {name: timedelta(seconds=seconds) for name, seconds in timeouts.items()}
        arguments = dict(self._arguments)
        arguments["client_options"] = {**arguments["client_options"], **options}
        return S3Store(**arguments)


def _arguments(bucket: str, prefix: str, access: S3Access, retry_s: float) -> dict[str, Any]:
    """What `access` gives; what it does not give obstore takes from the environment, by the names that AWS gave it."""
    given = {
        "endpoint": access.endpoint and access.endpoint.rstrip("/"),
        "region": access.region,
        "access_key_id": access.access_key,
        "secret_access_key": access.secret_key,
        "session_token": access.session_token,
    }
    options: dict[str, Any] = {"connect_timeout": timedelta(seconds=_CONNECT_S), "allow_http": True}
    if access.ca:
        options["root_certificate"] = Path(access.ca).read_bytes()
    return {
        "bucket": bucket,
        "prefix": prefix or None,
        "disable_bulk_delete": True,  # each object by a request of its own, which every S3 knows
        "client_options": options,
        "retry_config": {
            "max_retries": 1,
            "retry_timeout": timedelta(seconds=retry_s),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
        },
        **{name: value for name, value in given.items() if value},
    }
