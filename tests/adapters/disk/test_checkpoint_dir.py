"""Checkpoints on a disk: complete or absent, whatever happens."""

import errno
import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from edged.adapters.disk import checkpoint_dir
from edged.adapters.disk.checkpoint_dir import KEPT, CheckpointDir
from edged.errors import DiskFull, StateFolderRefused, StorageError
from edged.files import read_regular
from edged.ports import DeployedModel
from tests.support.small_disk import fill, mounted

MODEL = DeployedModel(7, b"seven", ("a", "b"), (2, 2, 1))

CRASHING = """
import os, signal, sys
from pathlib import Path
from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.ports import DeployedModel

def save(folder, num_calls):
    store = CheckpointDir(folder)

    def crashing(call):
        def call_or_die(*arguments, **options):
            nonlocal num_calls
            num_calls -= 1
            if num_calls < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return call_or_die

    for name in ("open", "fdopen", "fchmod", "fsync", "replace", "rename", "link", "unlink", "close"):
        setattr(os, name, crashing(getattr(os, name)))
    store.save(b"second" * 1000, 2)
    store.deploy(DeployedModel(2, b"model two" * 1000, ("a", "b"), (2, 2, 1)))

for folder in sorted(Path(sys.argv[1]).iterdir()):
    child = os.fork()
    if not child:
        save(folder, int(folder.name))
        os._exit(0)
    print(folder.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_have_these_names_and_are_not_readable_by_others(tmp_path):
    folder = tmp_path / "pi-a"
    store = CheckpointDir(folder)
    store.save(b"c", 4690)
    store.deploy(MODEL)
    assert names(folder) == [
        "checkpoint-000000004690.safetensors",
        "model-000000000007.json",
        "model-000000000007.tflite",
        "model.tflite",
    ]
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}


def test_model_tflite_is_the_newest(tmp_path):
    store = CheckpointDir(tmp_path)
    for generation in range(5):
        store.deploy(DeployedModel(generation, b"%d" % generation, ("a",), (1,)))
        assert (tmp_path / "model.tflite").read_bytes() == b"%d" % generation


def test_without_hard_links_model_tflite_is_a_copy(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    CheckpointDir(tmp_path).deploy(MODEL)
    assert (tmp_path / "model.tflite").read_bytes() == MODEL.content


@pytest.mark.parametrize("damage", ["truncated", "altered", "no_model", "description"])
def test_a_damaged_model_is_skipped(tmp_path, damage):
    store = CheckpointDir(tmp_path)
    store.deploy(DeployedModel(6, b"six", ("a", "b"), (2, 2, 1)))
    store.deploy(MODEL)
    model = tmp_path / "model-000000000007.tflite"
    match damage:
        case "truncated":
            model.write_bytes(b"sev")
        case "altered":
            model.write_bytes(b"sevem")
        case "no_model":
            model.unlink()
        case "description":
            model.with_suffix(".json").write_text('["not", "a", "description"]')
    newest = store.newest_model()
    assert newest is not None
    assert newest.generation == 6


def test_leftovers_of_a_crash_are_removed_at_start(tmp_path):
    (tmp_path / "checkpoint-000000000001.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "model-000000000001.tflite").write_bytes(b"without description")
    CheckpointDir(tmp_path)
    assert names(tmp_path) == []


def test_a_reader_removes_nothing_and_needs_no_folder(tmp_path):
    assert CheckpointDir(tmp_path / "none", writes=False).newest_model() is None
    (tmp_path / "model-000000000001.tflite").write_bytes(b"just being deployed")
    CheckpointDir(tmp_path, writes=False)
    assert names(tmp_path) == ["model-000000000001.tflite"]


@pytest.mark.parametrize("call", ["fsync", "fdopen"])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_temporary_file(tmp_path, monkeypatch, call):
    store = CheckpointDir(tmp_path)
    store.save(b"first", 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFull):
        store.save(b"second", 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["checkpoint-000000000001.safetensors"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB of its own."""
    with mounted(tmp_path, "size=1m"):
        yield tmp_path


def test_on_a_full_disk_the_oldest_checkpoint_makes_room_for_the_next(small_disk, log_lines):
    """However long it is full: what was learnt meanwhile is durable without a reserve that takes room all the time."""
    store = CheckpointDir(small_disk)
    for generation in range(1, 5):
        store.save(bytes([generation]) * 200_000, generation)
    fill(small_disk)
    for generation in range(5, 20):
        store.save(bytes([generation]) * 200_000, generation)
    assert next(iter(store.checkpoints())) == (19, bytes([19]) * 200_000)
    assert len(list(store.checkpoints())) == KEPT
    lines = log_lines("checkpoint.made_room")
    assert lines[0]["file"] == "checkpoint-000000000002.safetensors"
    assert "No space left" in lines[0]["err"]


def test_the_newest_checkpoint_is_no_reserve_and_room_is_used_again_when_there_is_some(small_disk):
    store = CheckpointDir(small_disk)
    for generation in range(1, 4):
        store.save(bytes(100_000), generation)
    filler = fill(small_disk)
    for generation in range(4, 7):  # too large for the room of the older ones
        with pytest.raises(DiskFull):
            store.save(bytes(900_000), generation)
    assert [generation for generation, _ in store.checkpoints()] == [3]
    filler.unlink()
    for generation in range(7, 11):
        store.save(bytes(100_000), generation)
    assert [generation for generation, _ in store.checkpoints()] == [10, 9, 8]


def test_on_a_full_disk_the_oldest_model_makes_room_for_the_next(small_disk):
    store = CheckpointDir(small_disk)
    for generation in range(1, 5):
        store.deploy(replace(MODEL, generation=generation, content=bytes([generation]) * 200_000))
    fill(small_disk)
    for generation in range(5, 20):
        store.deploy(replace(MODEL, generation=generation, content=bytes([generation]) * 200_000))
        newest = store.newest_model()
        assert newest is not None
        assert newest.generation == generation


def test_a_folder_that_cannot_be_created_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        CheckpointDir(tmp_path / "file")


def test_folders_with_the_names_of_files_are_skipped_and_kept(tmp_path):
    theirs = ["checkpoint-000000000002.safetensors", "model-000000000009.json", "checkpoint-1.tmp"]
    theirs += ["model-000000000008.tflite"]
    for name in theirs:
        (tmp_path / name).mkdir()
    store = CheckpointDir(tmp_path)
    for generation in (1, 3, 4, 5, 6):
        store.save(b"%d" % generation, generation)
    assert list(store.checkpoints()) == [(6, b"6"), (5, b"5"), (4, b"4")]
    assert store.newest_model() is None
    assert {*theirs} < {*names(tmp_path)}


@pytest.mark.parametrize("what", ["pipe", "link to nowhere", "link to itself"])
def test_what_is_no_file_is_damaged_and_can_be_set_aside(tmp_path, what):
    """A link to a disk that is not mounted, for instance: training must not start over without saying so."""
    store = CheckpointDir(tmp_path)
    file = tmp_path / "checkpoint-000000000001.safetensors"
    if what == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("nowhere" if what == "link to nowhere" else file.name)
    [(generation, error)] = store.checkpoints()
    assert generation == 1
    assert file.name in str(error)
    assert names(tmp_path) == [file.name]
    assert store.set_aside(1) == f"{file.name}.damaged-1"
    assert names(tmp_path) == [f"{file.name}.damaged-1"]
    assert list(store.checkpoints()) == []


def test_a_description_that_is_a_pipe_is_skipped_and_named(tmp_path, log_lines):
    os.mkfifo(tmp_path / "model-000000000007.json")
    assert CheckpointDir(tmp_path, writes=False).newest_model() is None
    assert [line["generation"] for line in log_lines("checkpoint.model_skipped")] == [7]


@pytest.mark.parametrize("what", ["file", "link to itself"])
def test_a_reader_of_what_is_no_folder_is_refused(tmp_path, what):
    folder = tmp_path / "pi-a"
    if what == "file":
        folder.write_text("in the way")
    else:
        folder.symlink_to(folder.name)
    with pytest.raises(StateFolderRefused, match=f"the state folder {folder} cannot be read"):
        CheckpointDir(folder, writes=False)


@pytest.mark.parametrize("is_disk", [False, True])
def test_a_folder_that_cannot_be_listed_is_refused_by_name_and_a_broken_disk_is_not(tmp_path, monkeypatch, is_disk):
    code = errno.EIO if is_disk else errno.EACCES

    def fail(_folder: Path) -> None:
        raise OSError(code, os.strerror(code))

    store = CheckpointDir(tmp_path)
    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(
        StorageError, match=f"the state folder {tmp_path} cannot be read: {os.strerror(code)}"
    ) as caught:
        store.newest_model()
    assert isinstance(caught.value, StateFolderRefused) != is_disk


def test_a_deleted_folder_is_recreated(tmp_path):
    store = CheckpointDir(tmp_path / "pi-a")
    (tmp_path / "pi-a").rmdir()
    store.save(b"first", 1)
    assert list(store.checkpoints()) == [(1, b"first")]


def test_a_description_of_endless_json_is_skipped(tmp_path):
    store = CheckpointDir(tmp_path)
    store.deploy(DeployedModel(1, b"one", ("a",), (1,)))
    (tmp_path / "model-000000000002.json").write_text("[" * 100_000)
    newest = store.newest_model()
    assert newest is not None
    assert newest.generation == 1


def test_a_kill_at_any_point_leaves_the_folder_intact(tmp_path):
    """SIGKILL before each system call of a save and a deploy; the last run completes."""
    for num_calls in range(60):
        store = CheckpointDir(tmp_path / f"{num_calls:02}")
        store.save(b"first" * 1000, 1)
        store.deploy(DeployedModel(1, b"model one" * 1000, ("a", "b"), (2, 2, 1)))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # so that the child may fork
    program = [sys.executable, "-c", CRASHING, str(tmp_path)]
    lines = subprocess.run(program, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()

    exit_codes = dict(line.split() for line in lines)
    assert set(exit_codes.values()) == {"0", str(-signal.SIGKILL)}
    for name, exit_code in exit_codes.items():
        folder = tmp_path / name
        store = CheckpointDir(folder)
        checkpoints, newest = list(store.checkpoints()), store.newest_model()
        assert checkpoints[-1] == (1, b"first" * 1000)
        assert checkpoints[0] in {(1, b"first" * 1000), (2, b"second" * 1000)}
        assert newest is not None
        assert newest.content == {1: b"model one", 2: b"model two"}[newest.generation] * 1000
        assert not [name for name in names(folder) if name.endswith(".tmp")]
        assert (folder / "model.tflite").read_bytes() in {b"model one" * 1000, b"model two" * 1000}
        if exit_code == "0":
            assert checkpoints[0][0] == newest.generation == 2


WRITING = """
import sys
from pathlib import Path
from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.ports import DeployedModel

store = CheckpointDir(Path(sys.argv[1]))
for generation in range(1, 300):
    store.save(bytes([generation % 256]) * 100_000, generation)
    store.deploy(DeployedModel(generation, bytes([generation % 256]) * 100_000, ("a", "b"), (2, 2, 1)))
"""


def test_a_companion_in_a_loop_beside_a_trainer_reads_whole_models_of_rising_generations(tmp_path, log_lines):
    CheckpointDir(tmp_path)
    reader, seen = CheckpointDir(tmp_path, writes=False), [0]
    with subprocess.Popen([sys.executable, "-c", WRITING, str(tmp_path)]) as writer:
        while writer.poll() is None:
            if (model := reader.newest_model()) is not None:
                assert model.content == bytes([model.generation % 256]) * 100_000
                seen.append(model.generation)
    assert writer.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert log_lines() == []


def test_the_error_names_a_state_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StateFolderRefused, match=f"folder {tmp_path}/file/pi-a .* used: {tmp_path}/file is no folder"):
        CheckpointDir(tmp_path / "file" / "pi-a")


def test_what_was_set_aside_is_kept_within_bounds(tmp_path):
    store = CheckpointDir(tmp_path)
    for generation in range(5):
        store.save(b"%d" % generation, generation)
        store.set_aside(generation)
    store.save(b"again", 1)
    store.set_aside(1)
    aside = {path.name.partition(".")[2]: path.read_bytes() for path in tmp_path.iterdir()}
    assert aside == {
        "safetensors.damaged-4": b"3",
        "safetensors.damaged-5": b"4",
        "safetensors.damaged-6": b"again",
    }


def test_a_checkpoint_that_cannot_be_read_is_given_as_the_error(tmp_path, monkeypatch):
    store = CheckpointDir(tmp_path)
    store.save(b"1", 1)
    store.save(b"2", 2)
    read = read_regular

    def failing(path: Path, max_bytes: int) -> bytes:
        if "02." in path.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path, max_bytes)

    monkeypatch.setattr(checkpoint_dir, "read_regular", failing)
    (_, error), whole = store.checkpoints()
    assert whole == (1, b"1")
    assert isinstance(error, StorageError)


def test_a_checkpoint_of_another_user_is_refused_and_not_taken_for_damaged(tmp_path, monkeypatch):
    store = CheckpointDir(tmp_path)
    store.save(b"1", 1)

    def forbidden(path: Path, _max_bytes: int) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(checkpoint_dir, "read_regular", forbidden)
    with pytest.raises(StateFolderRefused, match=r"checkpoint-000000000001\.safetensors may not be read"):
        list(store.checkpoints())


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_a_disk_that_takes_nothing_at_the_start_is_no_reason_to_refuse_it(tmp_path, monkeypatch, code):
    """What is there is read, each write fails until the disk is mended."""
    CheckpointDir(tmp_path).save(b"one", 1)

    def fail(*_args, **_options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        for name in ("chmod", "unlink"):
            broken.setattr(Path, name, fail)
        store = CheckpointDir(tmp_path)
        assert store.problem == f"the state folder {tmp_path} cannot be used: {os.strerror(code)}"
        assert list(store.checkpoints()) == [(1, b"one")]
        with pytest.raises(StorageError):
            store.save(b"two", 2)
    store.save(b"two", 2)
    assert next(store.checkpoints()) == (2, b"two")


def test_what_is_larger_than_any_file_of_the_node_is_not_read(tmp_path):
    """A sparse file takes no room on the disk."""
    store = CheckpointDir(tmp_path, max_bytes=1 << 20)
    for generation in (1, 2):
        store.save(b"c", generation)
        store.save_sampler_state(b"s", generation)
        store.deploy(DeployedModel(generation, b"m", ("a",), (1,)))
    for name in ("checkpoint-000000000002.safetensors", "epoch-000000000002.safetensors", "model-000000000002.tflite"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(3 << 30)
    tracemalloc.start()
    (_, error), whole = store.checkpoints()
    newest = store.newest_model()
    assert (whole, store.sampler_state(2), newest and newest.generation) == ((1, b"c"), None, 1)
    _held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20
    assert "3221225472 bytes; at most 1048576 are read" in str(error)
