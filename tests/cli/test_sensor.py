"""`edged sensor`: from a topology file and a data set to records under a device's topic."""

import asyncio
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edged.adapters import kafka
from edged.adapters.datasets.registry import open_dataset
from edged.adapters.images import encode
from edged.adapters.memory.log import MemoryLog
from edged.cli import main
from edged.ports import Dataset

TOPOLOGY = """
schema: 1
site: greenhouse
kafka: {bootstrap: ["localhost:1"]}
streams:
  fashion:
    sample: {shape: [28, 28, 1], dtype: uint8}
    labels: [t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, boot]
  switches:
    sample: {shape: [28, 28, 1], dtype: uint8}
    labels: ["on", "off"]
iot:
  - {name: cam, edge: pi, stream: fashion, codec: jpeg}
  - {name: cam-raw, edge: pi, stream: fashion, codec: raw}
  - {name: switch, edge: pi, stream: switches}
edges:
  - {name: pi}
archive:
  - {name: vault, url: "file:///srv/edged"}
"""


class ConnectedLog(MemoryLog):
    """The fake log in Kafka's place; `on_append` is called before each append with the number of records."""

    def __init__(self):
        super().__init__()
        self.on_append = lambda count: None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def append(self, messages, **options):
        self.on_append(self._appended)
        return await super().append(messages, **options)


@pytest.fixture
def log(monkeypatch, log_lines):
    log = ConnectedLog()
    monkeypatch.setattr(kafka, "KafkaLog", lambda *args, **options: log)
    return log


def run_beside_pytest(main):
    """Like asyncio.run, which would drop the thread's event loop unclosed, on which pytest-asyncio counts."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


@pytest.fixture
def sensor(tmp_path, monkeypatch):
    """Run `edged sensor` with these arguments; returns the exit code."""
    path = tmp_path / "topology.yaml"
    path.write_text(TOPOLOGY)
    monkeypatch.setattr(asyncio, "run", run_beside_pytest)

    def run(*args):
        return main(["sensor", str(path), *args])

    return run


def test_samples_arrive_in_order_with_their_labels(sensor, log):
    assert sensor("--node", "cam-raw", "--from", "fashion-mnist-small", "--rate", "max", "--count", "300") == 0
    records = log.records("greenhouse.iot.cam-raw")
    dataset = small()
    assert [(record.key, record.value) for record in records] == [
        (item.label.encode(), item.payload)
        for item in (dataset.sample("train", i) for i in range(300))
        if item.label is not None
    ]


def small() -> Dataset:
    return open_dataset("fashion-mnist-small")


def test_samples_are_transcoded_to_the_devices_codec(sensor, log):
    assert (
        sensor("--node", "cam", "--from", "fashion-mnist-small", "--rate", "max", "--count", "3", "--unlabelled") == 0
    )
    records = log.records("greenhouse.iot.cam")
    assert [(record.key, record.value[:3]) for record in records] == [(None, b"\xff\xd8\xff")] * 3


def test_a_split_can_be_chosen_and_looped(sensor, log):
    arguments = ("--split", "test", "--loop", "--count", "1001", "--rate", "max")
    assert sensor("--node", "cam-raw", "--from", "fashion-mnist-small", *arguments) == 0
    records = log.records("greenhouse.iot.cam-raw")
    assert len(records) == 1001
    assert records[0].value == records[1000].value == small().sample("test", 0).payload


def photos(folder: Path, **contents: bytes) -> Path:
    """Four images in three formats, all named .jpg, and other files by their contents."""
    for name, file_format in (("1", "jpeg"), ("2", "png"), ("3", "webp"), ("4", "gif")):
        path = folder / "on" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 30)).save(path, file_format)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_an_odd_file_is_named_and_counted_and_the_others_are_published(sensor, log, tmp_path, capsys):
    torn = encode(np.full((30, 30, 3), 200, np.uint8), "jpeg")[:400]
    folder = photos(tmp_path / "photos", **{"on/0.jpg": torn, "on/5.jpg": b"", "on/Thumbs.db": b"\xd0\xcf"})
    assert sensor("--node", "switch", "--from", str(folder), "--rate", "max") == 0
    assert [(record.key, len(record.value)) for record in log.records("greenhouse.iot.switch")] == [(b"on", 784)] * 4
    lines = {line["event"]: line for line in map(json.loads, capsys.readouterr().err.splitlines())}
    opened, left_out = lines["sensor.opened"], lines["sensor.left_out"]
    assert (opened["items"], [(each["reason"], each["first"]) for each in opened["left_out"]]) == (
        5,
        [("junk", ["on/Thumbs.db"]), ("empty", ["on/5.jpg"])],
    )
    assert (left_out["item"], left_out["reason"], opened["unlabelled"]) == ("on/0.jpg", "truncated", 0)
    assert lines["sensor.published"]["left_out"] == 1


@pytest.mark.parametrize(
    ("folder", "arguments", "unlabelled"),
    [("photos/on", (), 4), ("photos", (), 0), ("photos", ("--unlabelled",), 4)],
    ids=["flat", "classes", "left out"],
)
def test_items_that_go_without_labels_are_counted(sensor, log, tmp_path, capsys, folder, arguments, unlabelled):
    photos(tmp_path / "photos")
    assert sensor("--node", "switch", "--from", str(tmp_path / folder), "--rate", "max", *arguments) == 0
    assert sum(record.key is None for record in log.records("greenhouse.iot.switch")) == unlabelled
    opened = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (opened["event"], opened["unlabelled"]) == ("sensor.opened", unlabelled)


def test_nothing_that_can_be_published_is_said(sensor, log, tmp_path, capsys):
    folder = tmp_path / "photos" / "on"
    folder.mkdir(parents=True)
    Image.new("L", (2500, 1700)).save(folder / "1.png")
    assert sensor("--node", "switch", "--from", str(tmp_path / "photos"), "--loop") == 64
    assert "photos: no sample can be published: on/1.png: too_many_pixels: 2500×1700" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_what_was_published(sensor, log, capsys, number):
    log.on_append = lambda count: os.kill(os.getpid(), number) if count >= 2 else None
    assert sensor("--node", "cam-raw", "--from", "fashion-mnist-small", "--loop", "--rate", "1000") == 0
    published = len(log.records("greenhouse.iot.cam-raw"))
    assert published >= 3
    assert f'"samples": {published}' in capsys.readouterr().err


def test_a_signal_ends_it_also_while_kafka_is_away(sensor, log, monkeypatch, capsys):
    monkeypatch.setattr("edged.cli.sensor._TIMEOUT_S", 0.0)

    def vanish(count):
        log.unavailable = True
        os.kill(os.getpid(), signal.SIGTERM)

    log.on_append = vanish
    assert sensor("--node", "cam-raw", "--from", "fashion-mnist-small") == 69
    assert "0 samples acknowledged" in capsys.readouterr().err


def test_a_broker_that_is_not_there_at_the_start_is_not_waited_for_for_ever(sensor, log, monkeypatch, capsys):
    monkeypatch.setattr("edged.cli.sensor._START_TIMEOUT_S", 0.0)
    log.unavailable = True
    assert sensor("--node", "cam-raw", "--from", "fashion-mnist-small") == 69
    assert "Kafka does not answer; nothing was published" in capsys.readouterr().err


def test_with_a_buffer_it_ends_once_all_has_arrived(sensor, log, tmp_path):
    buffer = ("--buffer", str(tmp_path / "buffer"))
    assert sensor("--node", "cam-raw", "--from", "fashion-mnist-small", "--count", "20", "--rate", "max", *buffer) == 0
    assert len(log.records("greenhouse.iot.cam-raw")) == 20


def test_a_sensor_that_ends_while_kafka_is_away_leaves_the_rest_in_its_buffer(
    sensor, log, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr("edged.cli.sensor._TIMEOUT_S", 0.0)

    def vanish(count):
        log.unavailable = True
        os.kill(os.getpid(), signal.SIGTERM)

    log.on_append = vanish
    arguments = ("--node", "cam-raw", "--from", "fashion-mnist-small", "--buffer", str(tmp_path), "--count", "3")
    assert sensor(*arguments) == 69
    assert "are left in the buffer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (("--node", "cam-9"), 78, 'no node is called "cam-9"'),
        (("--node", "pi"), 78, '"pi" is no device'),
        (("--node", "switch"), 64, "10 labels that stream switches does not have"),
        (("--node", "cam", "--split", "validation"), 64, "no split 'validation'; it has train, test"),
        (("--node", "cam", "--rate", "0"), 64, '"0" is not a rate'),
        (("--node", "cam", "--rate", "nan"), 64, '"nan" is not a rate'),
        (("--node", "cam", "--count", "-1"), 64, '"-1" is not a whole number from 0 up'),
        (("--node", "cam", "--from", "no-such-set"), 64, "no data set is called so"),
        (("--node", "cam", "--from", "fashion-mnist-smal"), 64, 'called so (did you mean "fashion-mnist-small"?)'),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_published(sensor, log, capsys, args, code, why):
    assert sensor("--from", "fashion-mnist-small", *args) == code
    assert why in capsys.readouterr().err
    assert log._topics == {}
