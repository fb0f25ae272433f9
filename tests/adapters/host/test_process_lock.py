"""One process per node."""

import contextlib
import subprocess
import sys
from datetime import UTC, datetime

import psutil
import pytest

from edged.adapters.host import process_lock as module
from edged.adapters.host.name import host_name
from edged.adapters.host.process_lock import name_lock, process_lock
from edged.errors import AlreadyRunning, StateFolderRefused

HOLDER = """
import sys
from pathlib import Path
from edged.adapters.host.process_lock import name_lock, process_lock
with process_lock(Path(sys.argv[1])), name_lock(Path(sys.argv[1]), "infer"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_elsewhere(folder):
    """Another process holds both locks; its start as text, and its pid."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        started = datetime.fromtimestamp(psutil.Process(holder.pid).create_time(), UTC)
        yield f"{started:%Y-%m-%d %H:%M:%S} UTC", holder.pid
        holder.kill()


def test_a_second_process_is_refused_until_the_first_has_ended_even_by_a_kill(tmp_path):
    folder = tmp_path / "pi-a"
    with held_elsewhere(folder):
        with pytest.raises(AlreadyRunning), process_lock(folder):
            pass
        with process_lock(tmp_path / "pi-b"):
            pass
    with process_lock(folder):
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("what", ["node", "companion"])
def test_who_is_refused_is_told_where_and_since_when_the_other_runs(tmp_path, what):
    folder = tmp_path / "pi-a"
    lock = process_lock(folder) if what == "node" else name_lock(folder, "infer")
    with held_elsewhere(folder) as (since, pid):
        for _ in range(2):
            with pytest.raises(AlreadyRunning) as caught, lock:
                pass
            assert str(caught.value) == (
                f"another process runs this {what}: on {host_name()}, since {since}, process {pid}, "
                f"state folder {folder}. Stop it first"
            )
            lock = process_lock(folder) if what == "node" else name_lock(folder, "infer")


def test_a_folder_whose_name_is_no_text_is_locked_too(tmp_path):
    folder = tmp_path / "caf\udce9"
    with process_lock(folder), name_lock(folder, "infer") as lock:
        assert lock


@pytest.mark.parametrize("what", ["node", "companion"])
def test_a_holder_that_cannot_be_seen_from_here_is_told_by_its_folder(tmp_path, monkeypatch, what):
    monkeypatch.setattr(module, "_flock_holder" if what == "node" else "_listener", lambda _: 0)
    first, second = [process_lock(tmp_path) if what == "node" else name_lock(tmp_path, "infer") for _ in range(2)]
    with first, pytest.raises(AlreadyRunning, match=f"its state folder is {tmp_path}, .* in another container"), second:
        pass


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(StateFolderRefused, match=f"{tmp_path}/file cannot be used: {tmp_path}/file is no folder"),
        process_lock(tmp_path / "file"),
    ):
        pass
