"""An SD card to measure on: what programs, the file system and systemd's journal write to it in the end. For root."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_BYTES = 2 << 30
_SECTOR = 512
_JOURNALD = Path("/lib/systemd/systemd-journald")
_START_S = 30.0


def hindrance() -> str:
    """Why there can be none here; "" when there can."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return "a file system on a loop device takes root, and loop devices"
    return "" if _JOURNALD.exists() else f"no {_JOURNALD}: apt install systemd"


class SdCard:
    """A file system of its own in `folder`, on a loop device, mounted as Raspberry Pi OS mounts its card's."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self._counters = Path("/sys/block", Path(device).name, "stat")

    def written_bytes(self) -> int:
        """That the device has taken by now, with all that programs have written so far."""
        os.sync()
        return self.taken_bytes()

    def taken_bytes(self) -> int:
        """That the device has taken by now; what programs have not synced may be missing."""
        return int(self._counters.read_text().split()[6]) * _SECTOR


@contextlib.contextmanager
def sd_card(folder: Path) -> Iterator[SdCard]:
    """Inside, `folder` is one, empty at first."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
    device = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        subprocess.run(["mount", "-o", "noatime", device, folder], check=True)
        try:
            yield SdCard(folder, device)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        image.unlink()


@contextlib.contextmanager
def journal(folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """systemd's journal, with its files in `folder`: journald in a mount namespace of its own. Takes a node's lines."""
    folder.mkdir(exist_ok=True)
    as_at_boot = (
        "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /var/log/journal"
        f" && mount --bind '{folder}' /var/log/journal && exec {_JOURNALD}"
    )
    process = subprocess.Popen(["unshare", "--mount", "sh", "-ec", as_at_boot], stderr=subprocess.DEVNULL)
    try:
        door = Path(f"/proc/{process.pid}/root/run/systemd/journal/stdout")
        _wait_until(door.exists)
        process.send_signal(signal.SIGUSR1)  # from memory to the disk, as systemd-journal-flush.service asks it to
        _wait_until(lambda: any(folder.glob("*/system.journal")))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.connect(str(door))
            stream.sendall(b"edged\nedged@pi-a.service\n6\n1\n0\n0\n0\n")  # as systemd connects a unit's stderr
            yield lambda line: stream.sendall(b"<6>%s\n" % json.dumps(line).encode())
    finally:
        process.terminate()
        process.wait()


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("systemd-journald did not start")
        time.sleep(0.05)
