"""Opening what others have put there: nothing waits, nothing is read whole that is too large for it."""

import errno
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from edged.files import open_regular, read_regular


def test_a_file_is_read_whole_up_to_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes; at most 4") as refused:
        read_regular(tmp_path / "file", 4)
    assert refused.value.errno == errno.EFBIG


def test_the_size_of_a_sparse_file_is_checked_before_anything_is_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(3 << 30)
    tracemalloc.start()
    with pytest.raises(OSError, match="3221225472 bytes; at most 1048576 are read"):
        read_regular(tmp_path / "sparse", 1 << 20)
    _now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


def test_room_is_made_for_the_file_and_not_for_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    tracemalloc.start()
    assert read_regular(tmp_path / "file", 1 << 30) == b"12345"
    _now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


def test_a_file_without_a_size_is_read_up_to_the_limit():
    """As those of /proc."""
    status = Path("/proc/self/status")
    assert b"Name:" in read_regular(status, 1 << 20)
    with pytest.raises(OSError, match="11 bytes; at most 10"):
        read_regular(status, 10)


def test_a_pipe_is_refused_at_once_whether_or_not_anybody_writes_to_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"no regular file but a FIFO \(named pipe\), which is never read"):
        open_regular(tmp_path / "pipe")


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(OSError, match="no regular file but a socket, which is never read"):
            open_regular(Path("socket"))


def test_a_device_and_a_folder_are_refused(tmp_path):
    with pytest.raises(OSError, match="no regular file but a character device, which is never read"):
        open_regular(Path(os.devnull))
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_what_becomes_a_pipe_while_it_is_opened_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    real = os.open

    def swapped(path, *arguments):
        Path(path).unlink()
        os.mkfifo(path)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(OSError, match="no regular file"):
        open_regular(tmp_path / "file")


def test_a_link_is_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 1) == b"x"
