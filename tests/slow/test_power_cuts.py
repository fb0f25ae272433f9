"""Power cuts at every moment of what a node writes: no start is refused, and each finds the newest durable state.

A process writes through the real adapters, and each of its system calls is recorded; then each prefix of the record is
put on a disk, without what a file system may lose of what was not made durable. Of a whole edge some prefixes are.
"""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.disk.sqlite_cache import MIN_BUDGET_BYTES, SqliteCache
from edged.adapters.memory.health import RecordingHealth
from edged.errors import ArchiveUnavailable
from edged.services.training.checkpointing import Checkpointing
from tests.support.archive_samples import open_archive, pack
from tests.support.disk import Disk
from tests.support.disk.power import LOSSES, RecordedDisk, put, recorded
from tests.support.disk.writer import JOB, STEPS, entry_of, model_at
from tests.support.preloaded import need_compiler
from tests.support.shared_brokers import SharedBroker
from tests.support.site import Site, own_name, running

SEED = 20
CUTS = 6
"""Of a whole edge."""


def after_each_cut(what: str, folder: Path) -> Iterator[tuple[Path, int]]:
    """Every different disk that a power cut may leave of what `writer` writes, and the last step that was done by then.

    All different ones of each prefix of its calls.
    """
    need_compiler()
    written, found = folder / "written", folder / "found"
    written.mkdir()
    disk = Disk(folder / "settings", written, record=folder / "record")
    command = [sys.executable, "-m", "tests.support.disk.writer", what, str(written)]
    subprocess.run(command, check=True, env={**os.environ, **disk.environment})
    before = RecordedDisk(written)
    seen: set[int] = set()
    for op in [None, *recorded(folder / "record")]:
        if op is not None:
            before.take(op)
        done = before.content(written / "steps").split()
        for loss in LOSSES:
            entries = before.after_cut(loss, SEED)
            state = hash((len(done), frozenset(each for each in entries.items() if each[0].name != "steps")))
            if state not in seen:
                seen.add(state)
                put(entries, found)
                yield found, int(done[-1]) if done else 0
    assert int(before.content(written / "steps").split()[-1]) == STEPS


@pytest.mark.usefixtures("log_lines")
def test_training_resumes_from_the_newest_durable_checkpoint(tmp_path):
    """So does the companion, with the newest durable model, and an epoch with its plan."""
    for disk, done in after_each_cut("checkpoints", tmp_path):
        store = CheckpointDir(disk / "state" / "edged" / "pi-a")
        restoring = Checkpointing(
            store,
            RecordingHealth(),
            lambda _params, _samples: b"",
            job=JOB,
            labels=(),
            sample_shape=(),
            every_s=lambda: 1,
        )
        restored = restoring._restore()
        assert (restored.position.step if restored else 0) >= done
        model = store.newest_model()
        assert (model.generation if model else 0) >= done
        assert model is None or model == model_at(model.generation)
        assert done == 0 or store.sampler_state(done) == bytes([done]) * 700
        store.save(b"the next one", 1000)
        store.deploy(model_at(200))
        assert store.newest_model() == model_at(200)


def test_the_archive_goes_on_behind_the_newest_durable_file(tmp_path):
    for disk, done in after_each_cut("archive", tmp_path):
        store = open_archive(disk / "archive")
        try:
            store.check()
        except ArchiveUnavailable:
            assert done == 0
            store.create("lab")
        store.remove_leftovers("fashion", "pi-a")
        end = store.end("fashion", "pi-a")
        assert end.next_offset >= 2 * done
        assert not end.damage
        assert list(store.verify()) == []
        store.append("fashion", "pi-a", [(end.next_offset, pack(4 * end.next_offset))])
        assert list(store.verify()) == []
        assert store.end("fashion", "pi-a").next_offset == end.next_offset + 1


@pytest.mark.usefixtures("log_lines")
def test_the_cache_opens_and_gives_nothing_wrong(tmp_path):
    """It is not synced: what is lost is fetched again."""
    for disk, _done in after_each_cut("cache", tmp_path):
        cache = SqliteCache(disk / "cache", MIN_BUDGET_BYTES, "lab/fashion")
        known = dict(entry_of(number) for number in range(20, 20 * STEPS + 20))
        for key, entry in cache.get_many([key for key, _ in cache.keys()]).items():  # noqa: SIM118 - no mapping
            assert entry == known[key]
        cache.put_many(dict([entry_of(1)]))
        assert cache.get_many([entry_of(1)[0]]) == dict([entry_of(1)])
        cache.close()


async def test_a_whole_edge_starts_and_resumes_from_its_newest_durable_checkpoint(
    apache_kafka: SharedBroker, tmp_path: Path
):
    """Kafka and the archive, on other machines, are ahead of its disk then."""
    need_compiler()
    folder = tmp_path / "pi-a"
    folder.mkdir()
    site = Site(tmp_path, apache_kafka.bootstrap, site=own_name(tmp_path), epochs=100_000, checkpoint="1s")
    async with running(site):
        await site.import_fashion(200, test_limit=100)
        await site.start("run", "vault")
        disk = Disk(tmp_path / "settings", folder, record=tmp_path / "record")
        site.more_environment = disk.environment
        edge = await site.start("run", "pi-a")
        await edge.wait_for("checkpoint.saved", 6)
        edge.signal(signal.SIGKILL)
        await edge.ended()

        site.more_environment = {}
        for entries, durable in cuts_of(folder, tmp_path / "record"):
            put(entries, folder)
            edge = await site.start("run", "pi-a")
            assert (await edge.wait_for("train.started"))["step"] >= durable
            await edge.wait_for("checkpoint.saved")
            assert await edge.stop() == 0


def cuts_of(folder: Path, record: Path) -> list[tuple[Mapping[Path, bytes | None], int]]:
    """What some cuts leave on the disk, and the newest checkpoint that is durable whatever is lost."""
    ops, rng, disk = recorded(record), random.Random(SEED), RecordedDisk(folder)  # noqa: S311 - picks moments
    chosen = {*rng.sample(range(len(ops)), CUTS)}
    cuts: list[tuple[Mapping[Path, bytes | None], int]] = []
    for at, op in enumerate(ops):
        disk.take(op)
        if at in chosen:
            names = [path.name for path in disk.after_cut("all", SEED)]
            steps = [int(match[1]) for name in names if (match := re.fullmatch(r"checkpoint-(\d+)\.safetensors", name))]
            cuts.append((disk.after_cut(rng.choice(LOSSES), SEED), max(steps, default=0)))
    assert any(durable for _, durable in cuts)
    return cuts
