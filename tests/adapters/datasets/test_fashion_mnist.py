"""Downloading Fashion-MNIST: content is verified before the file gets its name."""

import functools
import gzip
import hashlib
import http.server
import shutil
import threading

import pytest

from edged.adapters.datasets import fashion_mnist
from edged.adapters.datasets.fashion_mnist import CONTENT_OF_FILE, Content, download_fashion_mnist
from edged.errors import FormatError, StorageError, TransientError
from tests.support.requirements import require
from tests.support.rights import as_nobody, passable_folder

NAMES = list(CONTENT_OF_FILE)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server of the folder `served`: (folder, url)."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def small_contents(monkeypatch, server):
    """Four small files on the server that stand for the real ones."""
    folder, _ = server
    contents = {}
    for name in NAMES:
        content = name.encode() * 1000
        (folder / name).write_bytes(gzip.compress(content))
        contents[name] = Content(len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(fashion_mnist, "CONTENT_OF_FILE", contents)
    return folder


def test_another_users_home_has_no_data_set_for_this_one(monkeypatch):
    """Who acts as a service keeps the environment of who he is."""
    with passable_folder() as folder:
        monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", folder / "not-there")
        (folder / "home").mkdir(mode=0o700)
        with as_nobody():
            assert fashion_mnist.full_folder({"HOME": str(folder / "home")}) is None


def test_the_real_files_are_downloaded_and_accepted(server, tmp_path):
    folder, url = server
    if not fashion_mnist.SYSTEM_FOLDER.is_dir():
        require("the full Fashion-MNIST is not installed (Debian: dataset-fashion-mnist)")
    for name in NAMES:
        shutil.copy(fashion_mnist.SYSTEM_FOLDER / name, folder)
    arrived: list[int] = []
    download_fashion_mnist(tmp_path / "edged" / "datasets" / "fashion-mnist", url=url, progress=arrived.append)
    assert fashion_mnist.full_folder({"XDG_CACHE_HOME": str(tmp_path)}) is not None
    assert fashion_mnist.cache_folder({"XDG_CACHE_HOME": str(tmp_path)}).joinpath(NAMES[0]).is_file()
    assert sum(arrived) == sum((folder / name).stat().st_size for name in NAMES)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: gzip.compress(gzip.decompress(content)[:-1] + b"!"),
        lambda content: gzip.compress(gzip.decompress(content) + b"!"),
        lambda content: content[:-10],
        lambda content: b"<html>not found</html>",
    ],
)
def test_a_file_with_other_content_is_refused_and_deleted(server, small_contents, tmp_path, damage):
    path = small_contents / NAMES[1]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FormatError, match=NAMES[1]):
        download_fashion_mnist(tmp_path / "to", url=server[1])
    assert [path.name for path in (tmp_path / "to").iterdir()] == [NAMES[0]]


def test_a_retry_downloads_only_missing_files(server, small_contents, tmp_path):
    download_fashion_mnist(tmp_path / "to", url=server[1])
    (tmp_path / "to" / NAMES[2]).unlink()
    fetched: list[int] = []
    download_fashion_mnist(tmp_path / "to", url=server[1], progress=fetched.append)
    assert sum(fetched) == (small_contents / NAMES[2]).stat().st_size


def test_a_server_without_the_files_is_a_transient_error(server, tmp_path):
    with pytest.raises(TransientError, match="404"):
        download_fashion_mnist(tmp_path / "to", url=server[1])


def test_a_folder_that_cannot_be_created_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        download_fashion_mnist(tmp_path / "file" / "to")
