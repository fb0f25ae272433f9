"""Waiting for what a child logs."""

import asyncio
import json

import pytest

from edged.cli.demo.processes import Child, ChildWentOn


def say(child: Child, event: str, **fields: int) -> None:
    child.pipe_data_received(2, json.dumps({"event": event, **fields}).encode() + b"\n")


async def test_what_comes_before_the_event_behind_which_it_cannot_is_returned():
    child = Child("run pi-a")
    waiting = asyncio.create_task(child.wait_for("train.epoch", before="train.finished", epoch=1))
    for epoch in range(2):
        say(child, "train.epoch", epoch=epoch)
    say(child, "train.finished")

    assert (await waiting)["epoch"] == 1


async def test_what_cannot_come_any_more_is_not_waited_for():
    child = Child("run pi-a")
    say(child, "train.epoch", epoch=0)
    waiting = asyncio.create_task(child.wait_for("train.epoch", before="train.finished", epoch=1))
    await asyncio.sleep(0)
    assert not waiting.done()
    say(child, "train.finished")

    with pytest.raises(ChildWentOn, match=r"run pi-a came to train\.finished without train\.epoch\n.*\"epoch\": 0"):
        await waiting


@pytest.mark.usefixtures("process")
async def test_a_child_runs_the_edged_that_is_installed_and_not_that_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "edged").mkdir()
    (tmp_path / "edged" / "__init__.py").touch()
    (tmp_path / "edged" / "__main__.py").write_text("print('of the current folder')\n")
    monkeypatch.chdir(tmp_path)

    child = await Child.start("schema", "schema")

    assert await child.ended() == 0, child.last_words()
    assert json.loads(child.stdout)["title"]
