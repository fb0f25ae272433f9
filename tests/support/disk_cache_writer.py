# ruff: noqa: S311, SIM118, T201 - a script with a random load
"""Writes to a disk cache until it is killed or the disk is full.

Arguments: the folder, the budget in bytes, and the largest file that the process may write (0: any).
Each entry's content is a function of its key, so that a reader can verify it.
"""

import random
import resource
import sys
from pathlib import Path

from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.domain.cache.entry import Entry, SampleKey
from edged.errors import StorageError

NAMESPACE = "greenhouse/images/28x28x1/uint8"


def entry(key: SampleKey) -> Entry:
    """An entry of 0 to 20,000 bytes; most are small."""
    chosen = random.Random(f"{key}")
    size = chosen.choice([0, 100, 784, 784, 784, 2500, 5000, 20_000])
    return Entry(chosen.randbytes(16) * (size // 16), "raw", f"{key.row}")


def main(folder: str, budget_bytes: int, max_file_bytes: int) -> None:
    if max_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    tier = SqliteCache(Path(folder), budget_bytes, NAMESPACE)
    print("open", flush=True)
    chosen = random.Random()
    for at in range(sys.maxsize):
        batch = [SampleKey("pi-a", chosen.randrange(40), chosen.randrange(256)) for _ in range(64)]
        held = [key for key, _ in tier.keys()]
        if tier.used_bytes > tier.capacity_bytes * 0.7:
            tier.delete_many(chosen.sample(held, min(len(held), 70)))
        try:
            tier.put_many({key: entry(key) for key in batch})
        except StorageError as error:
            whole = tier.get_many([key for key, _ in tier.keys()])
            assert all(kept == entry(key) for key, kept in whole.items())
            tier.delete_many(list(whole)[:10])
            print(f"refused at {at} with {len(whole)} entries: {type(error).__name__}", flush=True)
            tier.close()
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
