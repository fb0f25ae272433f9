"""A machine below a folder, with edged installed, and a systemctl of its own in front of the real one."""

import os
import stat
from pathlib import Path

from edged.adapters.host.machine import Machine

UNITS = "etc/systemd/system"
_BIN = Path(__file__).parent / "fake_systemd"


class FakeMachine:
    """`root`: its root folder. Tests that are not root's have all of it belong to whoever they are."""

    def __init__(self, root: Path, monkeypatch) -> None:
        self.root = root
        self.ids = {"root": (0, 0), "edged": (4242, 4242)}
        if os.geteuid() != 0:
            self.ids = dict.fromkeys(self.ids, (os.geteuid(), os.getegid()))
        for folder in (
            "run/systemd/system",
            "run/fake",
            UNITS,
            "usr/lib/systemd/system",
            "etc/edged",
            "srv",
            "var/lib",
            "var/cache",
        ):
            (root / folder).mkdir(parents=True)
        for unit in ("edged@.service", "edged-infer@.service"):
            (root / "usr/lib/systemd/system" / unit).write_text("[Service]\n")
        monkeypatch.setenv("MACHINE", str(root))
        monkeypatch.setenv("PATH", str(_BIN), prepend=os.pathsep)

    def opened(self) -> Machine:
        return Machine(self.root, lambda name: self.ids[name])

    def put(self, path: str, text: str = "") -> Path:
        """Put a file there."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def put_secret(self, node: str, name: str) -> None:
        """As its administrator is told to."""
        file = self.put(f"etc/edged/credentials/{node}/{name}", f"secret of {node}")
        for each, mode in ((file, 0o600), (file.parent, 0o700), (file.parents[1], 0o700)):
            each.chmod(mode)

    def text(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def changes(self) -> list[str]:
        """What systemctl was called for since the last time, but to show."""
        calls = self.root / "run/fake/calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines

    def is_running(self, unit: str) -> bool:
        state = self.root / "run/fake" / unit
        return state.exists() and state.read_text() == "active\n"

    def tree(self) -> dict[str, str]:
        """Everything below /etc, /srv and /var: files with their texts, folders with their modes; and what runs."""
        found = {}
        for top in ("etc", "srv", "var"):
            for path in sorted((self.root / top).rglob("*")):
                name = path.relative_to(self.root).as_posix()
                if path.is_symlink():
                    found[name] = f"→ {path.readlink()}"
                else:
                    found[name] = path.read_text() if path.is_file() else stat.filemode(path.stat().st_mode)
        running = [each.name for each in (self.root / "run/fake").glob("*.service") if self.is_running(each.name)]
        return found | dict.fromkeys(running, "runs")
