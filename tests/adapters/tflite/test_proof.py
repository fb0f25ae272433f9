"""Model files that would crash a process, or take all its memory or time, are found out in a child process."""

import json
import os
import sys
import threading

import pytest

from edged.adapters.tflite import proof
from edged.adapters.tflite.proof import Probe, Proofs
from edged.errors import FormatError, NotProven
from tests.support.hostile_models import crashing, sound

pytestmark = pytest.mark.usefixtures("process")


@pytest.fixture
def verdicts(tmp_path):
    return tmp_path / "cache" / "proofs.json"


@pytest.mark.parametrize("runner", ["tflite", "features", "numpy"])
def test_a_sound_file_passes(runner, verdicts):
    Proofs(verdicts).check(runner, "1", sound())


def test_a_file_that_ends_the_process_is_refused_with_the_signal(verdicts):
    with pytest.raises(FormatError, match=r"^the probe ended with SIGFPE$"):
        Proofs(verdicts).check("tflite", "1", crashing())


def test_a_file_that_asks_for_gigabytes_is_refused_before_it_has_them(verdicts):
    with pytest.raises(FormatError, match=r"MemoryError|bad_alloc|allocate"):
        Proofs(verdicts).check("tflite", "1", crashing(channels=1 << 28))


def test_a_file_that_is_no_model_is_refused_in_words(verdicts):
    with pytest.raises(FormatError, match=r"not a usable .tflite file"):
        Proofs(verdicts).check("tflite", "1", b"something else")


@pytest.mark.parametrize("loops", ["while True: pass", "import time; time.sleep(3600)"], ids=["busy", "idle"])
def test_a_file_that_takes_too_long_is_refused(loops, verdicts, tmp_path, monkeypatch):
    """Of its own time, and of everybody's."""
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(loops)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(proof, "_CPU_S", 1)
    monkeypatch.setattr(proof, "_TIMEOUT_S", 30.0 if "pass" in loops else 0.5)
    with pytest.raises(FormatError, match=r"SIGXCPU|timed out"):
        Proofs(verdicts).check("tflite", "1", sound())


@pytest.mark.skipif(sys.platform != "linux", reason="as the units")
def test_the_process_gives_way_to_the_one_that_serves(verdicts, tmp_path, monkeypatch):
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text("import os; raise OSError(os.getpriority(os.PRIO_PROCESS, 0))")
    monkeypatch.syspath_prepend(tmp_path)
    niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    with pytest.raises(FormatError, match=f": {niceness}$"):
        Proofs(verdicts).check("tflite", "1", sound())


class TestVerdicts:
    """In-process: the child is a function here."""

    @pytest.fixture
    def asked(self, monkeypatch):
        """Which files the child was asked about; b"bad" is refused, b"busy" does not come to an end."""
        asked = []

        def run(_probe, runner, content=b""):
            asked.append((runner, content))
            if content == b"bad":
                raise FormatError("the probe ended with SIGSEGV")
            if content == b"busy":
                raise NotProven("the probe did not run: timed out")
            return "", ""

        monkeypatch.setattr(Probe, "run", run)
        return asked

    def test_a_file_is_run_once_on_a_machine(self, verdicts, asked):
        for _ in range(2):
            proofs = Proofs(verdicts)
            for _ in range(2):
                proofs.check("tflite", "1", b"good")
                with pytest.raises(FormatError, match="SIGSEGV"):
                    proofs.check("tflite", "1", b"bad")
        assert asked == [("tflite", b"good"), ("tflite", b"bad")]

    def test_another_version_or_runner_is_asked_again(self, verdicts, asked):
        Proofs(verdicts).check("tflite", "1", b"good")
        Proofs(verdicts).check("tflite", "2", b"good")
        Proofs(verdicts).check("numpy", "2", b"good")
        assert len(asked) == 3

    def test_another_edged_asks_again(self, verdicts, asked, monkeypatch):
        Proofs(verdicts).check("numpy", "1", b"good")
        monkeypatch.setattr(proof, "__version__", "another")
        for _ in range(2):
            Proofs(verdicts).check("numpy", "1", b"good")
        assert len(asked) == 2

    def test_what_may_be_otherwise_next_time_is_not_remembered(self, verdicts, asked):
        for _ in range(2):
            with pytest.raises(NotProven, match="timed out"):
                Proofs(verdicts).check("tflite", "1", b"busy")
        assert len(asked) == 2

    @pytest.mark.parametrize(
        "content",
        [b"", b"[]", b'{"a": 1}', b"\xff", b"[" * 50_000, b" " * (1 << 20)],
        ids=["empty", "a list", "a number", "no text", "deep", "large"],
    )
    def test_a_damaged_file_of_verdicts_counts_as_none(self, content, verdicts, asked):
        verdicts.parent.mkdir()
        verdicts.write_bytes(content)
        Proofs(verdicts).check("tflite", "1", b"good")
        assert len(asked) == 1

    def test_a_folder_that_cannot_be_written_only_costs_time(self, tmp_path, asked):
        (tmp_path / "file").touch()
        proofs = Proofs(tmp_path / "file" / "proofs.json")
        for _ in range(2):
            proofs.check("tflite", "1", b"good")
        assert len(asked) == 1

    def test_the_newest_verdicts_are_kept(self, verdicts, asked):
        proofs = Proofs(verdicts)
        for i in range(70):
            proofs.check("tflite", "1", b"%d" % i)
        assert len(json.loads(verdicts.read_text())) == 64
        Proofs(verdicts).check("tflite", "1", b"69")
        assert len(asked) == 70


def test_a_stop_ends_the_child_that_runs(verdicts, tmp_path, monkeypatch):
    """From another thread, as the companion's stop comes while a worker waits for the child."""
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text("import time; time.sleep(3600)")
    monkeypatch.syspath_prepend(tmp_path)
    proofs = Proofs(verdicts)
    threading.Timer(0.2, proofs.stop).start()
    with pytest.raises(FormatError, match="SIGKILL"):
        proofs.check("tflite", "1", sound())
    assert not verdicts.exists()
