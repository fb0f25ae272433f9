"""One process per node."""

import subprocess
import sys

import pytest

from edged.adapters.host.process_lock import process_lock
from edged.errors import AlreadyRunning, StateFolderRefused

HOLDER = """
import sys
from pathlib import Path
from edged.adapters.host.process_lock import process_lock
with process_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_has_ended_even_by_a_kill(tmp_path):
    folder = tmp_path / "pi-a"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=str(folder)), process_lock(folder):
            pass
        with process_lock(tmp_path / "pi-b"):
            pass
        holder.kill()
    with process_lock(folder):
        assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(StateFolderRefused, match=f"{tmp_path}/file cannot be used: it is no folder"),
        process_lock(tmp_path / "file"),
    ):
        pass
