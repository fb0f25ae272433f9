"""A writer of an archive in a process of its own, for tests that let several fight for one source.

Arguments: its name among those that write, and where the archive is, see `place`. It answers each line of its input by
one, and says at first how far the archive goes, as far as it knows: `ready END`.

- `append LENGTH STEP SIGNAL`: files the next LENGTH packs there, and sends itself the signal at that step of it.
  `won END`, or `lost END` when another was first; and `stops` before it stops.
- `look`: learns where the archive ends. `ready END`.
- `compact`: packs what there is, without any grace. `packed NUMBER`.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from edged.adapters.objects.store import Store
from edged.adapters.parquet.store import ParquetStore
from edged.app.objects import object_store
from edged.domain.topology import Archive, S3Access
from edged.errors import ArchiveConflict
from tests.support.archive_samples import pack
from tests.support.object_stores import until_it_works

SOURCE = ("fashion", "pi-a")
_PACKED_BYTES = 20_000


def place(url: str, s3: S3Access | None = None) -> str:
    """Where an archive is, as a fighter's argument."""
    return json.dumps({"url": url, "s3": asdict(s3 or S3Access())})


def opened(where: str, writer: str) -> ParquetStore:
    """The archive there."""
    known = json.loads(where)
    archive = Archive(writer, known["url"], s3=S3Access(**known["s3"]))
    return ParquetStore(object_store(archive, writer), "lab")


class _Ambush:
    """Sends this process a signal at a step of what it does to objects: before and behind each change."""

    def __init__(self) -> None:
        self._steps_left = 0
        self._signal = signal.SIGKILL
        for call in ("publish", "delete"):
            setattr(Store, call, self._stepped(getattr(Store, call)))

    def lay(self, step: int, number: int) -> None:
        self._steps_left, self._signal = step, signal.Signals(number)

    def _stepped(self, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._step()
            result = really(*arguments)
            self._step()
            return result

        return call

    def _step(self) -> None:
        self._steps_left -= 1
        if self._steps_left == 0:
            if self._signal == signal.SIGSTOP:
                _answer("stops")
            os.kill(os.getpid(), self._signal)


class _Writer:
    def __init__(self, store: ParquetStore) -> None:
        self._store = store
        self._ambush = _Ambush()
        self._end = 0
        until_it_works(lambda: store.remove_leftovers(*SOURCE))

    def look(self) -> str:
        self._end = until_it_works(lambda: self._store.end(*SOURCE).next_offset)
        return f"ready {self._end}"

    def append(self, length: str, step: str, number: str) -> str:
        packs = [(offset, pack(4 * offset)) for offset in range(self._end, self._end + int(length))]
        self._ambush.lay(int(step), int(number))
        try:
            until_it_works(lambda: self._store.append(*SOURCE, packs))
        except ArchiveConflict:
            self.look()
            return f"lost {self._end}"
        self._end += len(packs)
        return f"won {self._end}"

    def compact(self) -> str:
        steps = until_it_works(lambda: list(self._store.compact(grace_s=0, packed_bytes=_PACKED_BYTES)))
        return f"packed {sum(step.files for step in steps)}"


def _answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(name: str, where: str) -> None:
    writer = _Writer(opened(where, name))
    commands: dict[str, Callable[..., str]] = {
        "look": writer.look,
        "append": writer.append,
        "compact": writer.compact,
    }
    _answer(writer.look())
    for line in sys.stdin:
        command, *arguments = line.split()
        _answer(commands[command](*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
