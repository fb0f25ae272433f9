"""Two writers, an import, compaction, retention and four readers at once, each a process: nothing is twice or missing.

Half a minute; `pytest --minutes 5` for longer.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edged.domain.archive.snapshot import BlockRef
from tests.support.archive_crowd import DEVICES, STREAM, offsets_of
from tests.support.archive_samples import new_archive, open_archive, pack

ROOT = Path(__file__).parents[2]
ROLES = {
    "arc-1": "write",
    "arc-2": "write",
    "import": "import",
    "compact": "compact",
    "retain": "retain",
    **{f"edge-{number}": "read" for number in range(4)},
}


def test_a_crowd_at_one_archive_sees_each_sample_once(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    folder = tmp_path / "archive"
    new_archive(folder)
    seconds = str(60 * pytestconfig.option.minutes)
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.support.archive_crowd", role, str(folder), seconds],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, role in ROLES.items()
    }
    outputs = {name: child.communicate() for name, child in children.items()}
    assert {name: outputs[name][1] for name, child in children.items() if child.returncode} == {}
    done = {name: json.loads(output) for name, (output, _) in outputs.items()}
    assert all(done[name]["read"] for name in ROLES if name.startswith("edge"))
    assert done["compact"]["packed"], done
    assert done["retain"]["steps"], done

    store = open_archive(folder)
    assert list(store.verify()) == []
    snapshot = store.snapshot(STREAM)
    for source, device in DEVICES.items():
        offsets = offsets_of(snapshot, source)
        assert offsets == list(range(offsets[0], store.ends(STREAM)[source]))
        found = [block.samples for _, block in store.read(STREAM, [BlockRef(source, offset) for offset in offsets])]
        assert found == [pack(4 * offset, device=device).samples for offset in offsets]
