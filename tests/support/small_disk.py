"""File systems of a test's own, in memory: small ones that are full for real, or that the kernel makes read-only."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Inside, the folder is one, empty at first. Skips the test without the right to mount."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root; a preloaded library stands in for it")
    mount(folder, options)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, options: str) -> None:
    """Mount one, or change one that is mounted: such as `size=2m`, `remount,size=16m`, `remount,ro`."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr}")


def fill(folder: Path) -> Path:
    """A file of another program that takes what room there is."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler
