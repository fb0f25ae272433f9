"""Which of several libraries computes when the best one cannot."""

import os
import shutil

import pytest

from edged.adapters.kernels import backend, build
from edged.adapters.kernels.backend import compiled
from edged.adapters.kernels.self_test import DIGEST, digest_of
from edged.errors import KernelsUnavailable
from tests.support.kernel_builds import runnable


@pytest.fixture
def good() -> build.Variant:
    """The best library of this machine."""
    return runnable()[0]


@pytest.fixture
def folder(tmp_path, good, monkeypatch):
    """A folder with the good library, and another that this CPU would rather run."""
    for name in (good.file, build.SOURCE.name):
        shutil.copy(build.FOLDER / name, tmp_path)
    shutil.copy(build.FOLDER / good.file, tmp_path / "better.so")
    better = good._replace(file="better.so", instructions="better ones")
    monkeypatch.setattr(backend, "fitting", lambda _: [better, good])
    return tmp_path


def test_the_best_one_computes(folder):
    chosen = compiled(folder)
    assert (chosen.instructions, chosen.left_out) == ("better ones", ())


def torn(file):
    file.write_bytes(file.read_bytes()[:-100])


def missing(file):
    file.unlink()


def a_fifo(file):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("damage", "says"), [(torn, "is damaged"), (missing, "is missing"), (a_fifo, "it is no regular file but a FIFO")]
)
def test_beside_one_that_cannot_be_loaded_the_next_one_computes(folder, good, damage, says):
    damage(folder / "better.so")

    chosen = compiled(folder)

    [reason] = chosen.left_out
    assert chosen.instructions == good.instructions
    assert str(folder / "better.so") in reason
    assert says in reason
    assert digest_of(chosen) == DIGEST


def test_beside_one_that_computes_other_bits_the_next_one_computes(folder, good, monkeypatch):
    digests = iter(["other bits", DIGEST])
    monkeypatch.setattr(backend, "digest_of", lambda _: next(digests))

    chosen = compiled(folder)

    [reason] = chosen.left_out
    assert chosen.instructions == good.instructions
    assert (
        reason == f"{folder / 'better.so'} computes other bits here than elsewhere: please report this CPU and compiler"
    )


def test_when_none_can_be_loaded_each_ones_reason_is_told(folder, good):
    torn(folder / "better.so")
    missing(folder / good.file)

    with pytest.raises(KernelsUnavailable, match=rf"better\.so is damaged.*; .*{good.file} is missing"):
        compiled(folder)


def test_a_reason_that_all_have_is_told_once(folder):
    (folder / build.SOURCE.name).unlink()

    with pytest.raises(KernelsUnavailable) as raised:
        compiled(folder)

    assert str(raised.value).count("cannot be read") == 1
