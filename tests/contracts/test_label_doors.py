"""A label is the same by whichever door it comes in, however it is written."""

import struct

import numpy as np
import pytest

from edged import topology_file
from edged.adapters.datasets.registry import open_dataset
from edged.adapters.images import encode
from edged.domain.samples import codec
from edged.domain.topology import Stream
from edged.errors import ConfigError, RejectedRecord

LABEL = "M\u00f6hre"
WRITTEN = ["Mo\u0308hre", "\ufeffM\u00f6hre", "M\u00f6\u00adhre", "M\u00f6hre\u200b", " M\u00f6hre\u00a0"]
STREAM = Stream("beds", (8, 8, 1), "uint8", ("R\u00fcbe", LABEL))

TOPOLOGY = """\
schema: 1
site: lab
kafka: {{bootstrap: [localhost:9092]}}
streams:
  beds:
    sample: {{shape: [8, 8, 1], dtype: uint8}}
    labels: ["{}", "{}"]
iot: [{{name: cam-01, edge: pi-a, stream: beds}}]
edges: [{{name: pi-a}}]
archive: [{{name: vault, url: file:///srv/edged}}]
"""


def by_topology(written, tmp_path):
    file = tmp_path / "topology.yaml"
    file.write_text(TOPOLOGY.format("R\u00fcbe", written), "utf-8")
    return topology_file.load(file, {}).streams[0].labels[1]


def by_value(written, _tmp_path):
    return Stream("beds", (1,), "uint8", (written,)).labels[0]


def by_key(written, _tmp_path):
    return codec.check_record(written.encode(), bytes(64), STREAM, "raw")


def by_labels_file(written, tmp_path):
    folder = tmp_path / "beds"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 1, 1, 1) + b"\x07")
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 1) + b"\x01")
    (folder / "labels.txt").write_bytes(f"R\u00fcbe\r\n{written}\r\n".encode())
    return open_dataset(folder).sample("train", 0).label


def by_class_folder(written, tmp_path):
    folder = tmp_path / "beds" / written
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(encode(np.zeros((8, 8, 1), np.uint8), "png"))
    dataset = open_dataset(tmp_path / "beds")
    return dataset.sample(dataset.splits[0], 0).label


def by_csv(written, tmp_path):
    (tmp_path / "beds.csv").write_text(f"height,\ufefflabel\n1.5,{written}\n", "utf-8")
    dataset = open_dataset(tmp_path / "beds.csv")
    return dataset.sample(dataset.splits[0], 0).label


@pytest.mark.parametrize("door", [by_topology, by_value, by_key, by_labels_file, by_class_folder, by_csv])
@pytest.mark.parametrize("written", WRITTEN, ids=ascii)
def test_a_label_is_the_same_by_every_door(door, written, tmp_path):
    assert door(written, tmp_path) == LABEL


@pytest.mark.parametrize("written", WRITTEN, ids=ascii)
def test_a_sample_archived_before_has_the_class_of_its_label(written):
    assert codec.class_number(codec.class_index(STREAM), written) == 1


@pytest.mark.parametrize("written", WRITTEN, ids=ascii)
def test_labels_that_look_the_same_are_refused_and_how_they_differ_is_shown(written, tmp_path):
    file = tmp_path / "topology.yaml"
    file.write_text(TOPOLOGY.format(LABEL, written), "utf-8")

    with pytest.raises(ConfigError) as caught:
        topology_file.load(file, {})

    [problem] = caught.value.problems
    assert problem.path == "streams.beds.labels[1]"
    one, other = problem.message.removeprefix("the same as streams.beds.labels[0], written ").split(" and ")
    assert one == f'"{LABEL}"'
    assert "\\" in other or other.startswith('" ')


def test_an_unknown_label_is_shown_with_what_cannot_be_seen():
    with pytest.raises(RejectedRecord, match=r'"R\u00fcbe\\xa02" is not one of the 2 of beds'):
        codec.check_record("R\u00fcbe\u00a02".encode(), bytes(64), STREAM, "raw")


@pytest.mark.parametrize("name", ["pi-a\u200b", "pi\u00ada"], ids=ascii)
def test_a_name_with_something_invisible_is_refused_and_shows_it(name, tmp_path):
    file = tmp_path / "topology.yaml"
    file.write_text(TOPOLOGY.format("a", "b").replace("edges: [{name: pi-a}]", f'edges: [{{name: "{name}"}}]'), "utf-8")

    with pytest.raises(ConfigError) as caught:
        topology_file.load(file, {})

    assert ascii(name)[1:-1] in caught.value.problems[-1].message
