"""Fashion-MNIST: its labels, its known contents, where it may be installed, and how to download it.

Xiao, Rasul, Vollgraf: Fashion-MNIST, arXiv:1708.07747. The images belong to Zalando SE and are under the MIT licence.
"""

import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from edged.errors import FormatError, StorageError, TransientError

LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the full set."""

SMALL_FOLDER = Path(__file__).parents[2] / "data" / "fashion-mnist-small"
"""The subset that comes with edged: 6,000 training and 1,000 test images."""

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
"""The authors' own bucket; it has no TLS, so downloads are verified by the digests below."""


class Content(NamedTuple):
    """A file's unpacked content. The gzip files in circulation differ, their contents do not."""

    num_bytes: int
    sha256: str


CONTENT_OF_FILE: Mapping[str, Content] = {
    "train-images-idx3-ubyte.gz": Content(
        47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte.gz": Content(60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte.gz": Content(7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte.gz": Content(10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}

_MAX_DOWNLOAD_BYTES = 64 << 20
_CHUNK = 1 << 18
_TIMEOUT_S = 30.0


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this user's downloads are stored."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/")) / ".cache"
    return Path(base) / "edged" / "datasets" / "fashion-mnist"


def full_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of the full set on this machine; None when it is not installed."""
    candidates = (SYSTEM_FOLDER, cache_folder(environment))
    return next((path for path in candidates if _is_whole(path)), None)


def _is_whole(folder: Path) -> bool:
    try:
        return all((folder / name).is_file() for name in CONTENT_OF_FILE)
    except PermissionError:  # another user's home, of whom this process has the environment
        return False


def download_fashion_mnist(folder: Path, *, url: str = URL, progress: Callable[[int], object] = lambda _: None) -> None:
    """Download the full set's four files into `folder`, some 30 MB; existing files are kept.

    A file gets its name only after the SHA-256 of its content is verified; `progress` is called with the number of
    bytes of each chunk. Blocks. Raises FormatError for a file that is not Fashion-MNIST's,
    TransientError when the server does not respond, StorageError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}") from error
    for name, content in CONTENT_OF_FILE.items():
        if not (folder / name).is_file():
            _fetch(f"{url}/{name}", folder / name, content, progress)


def _fetch(url: str, path: Path, content: Content, progress: Callable[[int], object]) -> None:
    with _partial_file(path) as partial:
        _receive(url, partial, progress)
        check(partial, content, url)
        partial.chmod(0o644)
        partial.replace(path)


class _partial_file:  # noqa: N801 - reads as a function in its `with`
    """A temporary file next to `path` for unverified content; deleted at the end unless it was renamed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        except OSError as error:
            raise StorageError(f"{self._path.parent}: {error.strerror or error}") from error
        os.close(handle)
        self._partial = Path(name)
        return self._partial

    def __exit__(self, *_: object) -> None:
        self._partial.unlink(missing_ok=True)


def _receive(url: str, path: Path, progress: Callable[[int], object]) -> None:
    num_bytes = 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, path.open("wb") as file:  # noqa: S310 - http
            while chunk := response.read(_CHUNK):
                num_bytes += len(chunk)
                if num_bytes > _MAX_DOWNLOAD_BYTES:
                    raise FormatError(
                        f"{url}: more than {_MAX_DOWNLOAD_BYTES} bytes; no file of Fashion-MNIST is that large"
                    )
                file.write(chunk)
                progress(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(f"{url}: {error}") from error


def check(path: Path, content: Content, name: str) -> None:
    """Raises FormatError unless the gzip file at `path` unpacks to exactly `content`."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with gzip.open(path) as file:
            while num_bytes <= content.num_bytes and (chunk := file.read(_CHUNK)):
                digest.update(chunk)
                num_bytes += len(chunk)
    except (EOFError, OSError, zlib.error) as error:
        raise FormatError(f"{name}: the gzip data ends early or is damaged") from error
    if digest.hexdigest() != content.sha256:
        raise FormatError(f"{name}: its content has SHA-256 {digest.hexdigest()}, Fashion-MNIST's is {content.sha256}")
