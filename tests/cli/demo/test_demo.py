"""`edged demo` before anything starts, how it is stopped, and how it tells what it found."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from edged.cli.demo import report, topology_text
from edged.cli.demo.group import Contribution, Group
from edged.cli.demo.outage import Outage
from edged.topology_file import load

SAME = "5a" * 32
GROUP = Group(
    steps=540,
    steps_without_somebody=12,
    weights=SAME,
    proofs=5,
    proofs_failed=0,
    edges={
        "pi-a": Contribution(20_852, 0.60002, 540, 0, 35_447.31, SAME),
        "pi-b": Contribution(13_900, 0.39998, 528, 12, 35_447.31, SAME),
    },
    outage=Outage("pi-b", epoch=1, step=250, away_s=4.21, caught_up=70),
    took_part_again=True,
)
TWO_EDGES = report.Summary(
    edges=2,
    test_accuracy=0.83449999,
    samples_per_s=458.123,
    data_wait_fraction=0.0290001,
    blocked_fraction=0.0480001,
    backend="compiled/1",
    no_kernels=None,
    peak_rss_mib={"run pi-a": 102.5123},
    published=240,
    archived=240,
    archived_twice=0,
    predicted=240,
    predicted_twice=0,
    dead_lettered=0,
    prediction_p50_ms=99.3123,
    prediction_p99_ms=279.1,
    live_accuracy=0.82083333,
    epochs=3,
    trained_samples=34_752,
    import_samples=5_760,
    wall_s=108.4444,
    group=GROUP,
)
NOT_LIVE = replace(
    TWO_EDGES,
    edges=1,
    group=None,
    epochs=1,
    published=0,
    archived=0,
    predicted=0,
    prediction_p50_ms=None,
    prediction_p99_ms=None,
    live_accuracy=None,
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--edges", "0"), 'argument --edges: "0" is not a whole number from 1 to 26'),
        (("--edges", "27"), 'argument --edges: "27" is not a whole number from 1 to 26'),
        (("--epochs", "1001"), 'argument --epochs: "1001" is not a whole number from 1 to 1000'),
        (("--epochs", "many"), 'argument --epochs: "many" is not a whole number'),
        (("--live", "-1"), 'argument --live: "-1" is not a whole number from 0 up'),
        (("--rate", "0"), 'argument --rate: "0" is not a number above 0'),
        (("--rate", "nan"), 'argument --rate: "nan" is not a number above 0'),
        (("--broker", "nonsense"), 'argument --broker: "nonsense" is not HOST:PORT'),
        (("--kill", "auto"), "--kill needs other edges that train meanwhile: --edges 2 or more"),
        (("--edges", "2", "--kill", "pi-c"), 'no edge is called "pi-c"; there are pi-a, pi-b, or auto'),
        (("--broker", "localhost:99999"), 'argument --broker: "localhost:99999" is not HOST:PORT'),
    ],
)
def test_a_wrong_option_is_refused_in_words(edged, words, said):
    code, out, err = edged("demo", *words)

    assert (code, out) == (64, "")
    assert said in err


def broken_images(folder):
    """Two classes of files that are no images."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            (folder / name / f"{number}.jpg").write_bytes(b"broken")
    return folder


def refusal(edged, *words):
    """The exit code, and what was said."""
    code, out, err = edged("demo", *words)
    assert out == ""
    return code, err


def test_data_that_cannot_be_shown_are_refused_in_words(edged, tmp_path):
    code, said = refusal(edged, "--live", "5", "--data", str(broken_images(tmp_path)))
    assert code == 64
    assert "no images (JPEG, PNG, WebP, GIF, BMP)\n  left out: 60 files without an image (a/0.jpg, a/1.jpg" in said

    code, said = refusal(edged, "--data", str(tmp_path / "nowhere"))
    assert code == 64
    assert "no such file or folder" in said


def test_a_folder_in_use_is_refused_and_left_as_it_is(edged, tmp_path):
    (tmp_path / "topology.yaml").write_text("another run's")

    code, said = refusal(edged, "--keep", str(tmp_path))

    assert (code, "is not empty" in said) == (64, True)
    assert [path.name for path in tmp_path.iterdir()] == ["topology.yaml"]


def test_a_folder_that_cannot_be_made_is_told_in_a_line(edged, tmp_path):
    (tmp_path / "file").write_text("")

    for keep in (tmp_path / "file", tmp_path / "file" / "below"):
        code, said = refusal(edged, "--keep", str(keep))
        assert code == 73
        assert said.startswith(f"edged demo: {tmp_path / 'file'}")


def test_a_fifo_is_named_and_not_waited_for(edged, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for option in ("--data", "--security"):
        code, said = refusal(edged, option, str(tmp_path / "pipe"), "--broker", "127.0.0.1:1")
        assert (code, "it is no regular file but a FIFO (named pipe), which is never read" in said) == (64, True)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o646])
def test_a_security_file_that_others_may_read_is_warned_of_and_one_that_they_may_write_is_refused(
    edged, monkeypatch, tmp_path, mode
):
    monkeypatch.setattr("edged.cli.demo.observer._TIMEOUT_S", 0.2)
    file = tmp_path / "security.yaml"
    file.write_text("protocol: PLAINTEXT\n")
    file.chmod(mode)
    code, said = refusal(edged, "--security", str(file), "--broker", "127.0.0.1:1")
    assert code == (64 if mode == 0o646 else 69)
    verb = {0o600: None, 0o644: "read", 0o646: "written"}[mode]
    assert (f"{file} may be {verb} by others" in said) == (verb is not None)
    assert (f": chmod 600 {file}" in said) == (verb is not None)


def test_a_broker_that_does_not_answer_is_told_soon(edged, monkeypatch):
    monkeypatch.setattr("edged.cli.demo.observer._TIMEOUT_S", 0.2)

    code, said = refusal(edged, "--broker", "127.0.0.1:1")

    assert code == 69
    assert said.startswith("edged: Kafka at 127.0.0.1:1 does not answer (127.0.0.1:1: ")


WAITS = """
import asyncio, sys
from edged.cli.demo import stopping

async def wait():
    try:
        print("waiting", flush=True)
        await asyncio.sleep(60)
    finally:
        print("said to a terminal that may be closed", flush=True)
        open(sys.argv[1], "w").close()

with stopping.by_signals() as stop:
    try:
        asyncio.run(wait())
    except KeyboardInterrupt:
        sys.exit(stop.exit_code)
"""


def as_a_background_job() -> None:
    """SIGINT is ignored, SIGHUP is not, whatever the tests themselves were started from."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_way_of_stopping_cleans_up(number, tmp_path):
    """Ctrl-C, a service manager, a closed session; also as a script's background job, whose SIGINT is ignored."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(tmp_path / "cleaned-up")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=as_a_background_job,  # noqa: PLW1509 - no threads here
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"waiting\n"
    if number == signal.SIGHUP:
        process.stdout.close()
    process.send_signal(number)

    assert process.wait() == 128 + number
    assert (tmp_path / "cleaned-up").exists()
    process.stdout.close()


def test_json_has_the_digits_that_mean_something():
    figures = json.loads(report.as_json(TWO_EDGES))

    assert {key: figures[key] for key in ("test_accuracy", "live_accuracy", "samples_per_s", "wall_s", "whole")} == {
        "test_accuracy": 0.8345,
        "live_accuracy": 0.8208,
        "samples_per_s": 458.1,
        "wall_s": 108.4,
        "whole": True,
    }
    assert figures["peak_rss_mib"] == {"run pi-a": 102.5}


def test_json_has_what_a_group_did():
    group = json.loads(report.as_json(TWO_EDGES))["group"]

    assert (group["steps"], group["steps_without_somebody"]) == (540, 12)
    assert (group["weights"], group["is_identical"]) == (SAME, True)
    assert group["edges"]["pi-b"] == {
        "samples": 13_900,
        "share": 0.4,
        "steps": 528,
        "missed": 12,
        "bytes_per_step": 35_447.3,
        "weights": SAME,
    }
    assert group["outage"] == {"edge": "pi-b", "epoch": 1, "step": 250, "away_s": 4.2, "caught_up": 70}
    assert json.loads(report.as_json(NOT_LIVE))["group"] is None


BACK = report.WayBack(delivered=240, delivered_twice=3, p50_ms=12.3, p99_ms=45.6)


def test_what_came_back_to_the_devices_by_mqtt_is_told():
    text = report.as_text(replace(TWO_EDGES, way_back=BACK), 1000)

    assert "240 (3 twice!)" in text
    assert "12 ms median, 46 ms p99" in text
    assert "published 240 fresh images by MQTT, and got 240 predictions back." in text


def test_a_prediction_that_did_not_come_back_is_a_failure():
    assert replace(TWO_EDGES, way_back=BACK).is_well
    assert not replace(TWO_EDGES, way_back=replace(BACK, delivered=239)).is_well


def test_a_demo_by_mqtt_ends_where_there_is_no_mosquitto(edged, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)

    assert refusal(edged, "--mqtt", "--broker", "127.0.0.1:1") == (
        69,
        "edged demo: mosquitto is not installed: apt install mosquitto\n",
    )


@pytest.mark.parametrize(
    ("archive", "told"),
    [("hdfs", "hdfs is not installed: unpack Apache Hadoop"), ("s3", "versitygw is not installed: go install")],
)
def test_a_demo_ends_where_there_is_no_such_store(archive, told, edged, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)

    code, text = refusal(edged, "--archive", archive, "--broker", "127.0.0.1:1")

    assert code == 69
    assert text.startswith(f"edged demo: {told}")


def test_an_edge_that_came_back_too_late_to_contribute_is_not_said_to_have_taken_part():
    group = replace(GROUP, took_part_again=False)

    assert (
        "and came back 4.2 s later, after 70 steps caught up on from the log, but all was over before it took"
        " part again; the others went on, 12 steps without it."
    ) in report.as_text(replace(TWO_EDGES, group=group), 1000)


def test_what_edges_did_together_is_told_as_such():
    text = report.as_text(TWO_EDGES, 1000)

    assert "458 samples/s (2 edges together)" in text
    assert "540, 12 of them without somebody" in text
    assert "20,852 samples (60%), 34.6 KiB a step\n" in text
    assert "13,900 samples (40%), 34.6 KiB a step, 12 steps missed\n" in text
    assert "Tier 2, the 2 edges, trained one model on 34,752 samples to 83.4% test accuracy" in text
    assert "5,760 images in 3 epochs, shared out among the 2 edges and kept 240 new ones: each exactly once." in text
    assert (
        "pi-b was killed in epoch 2, in step 250, and took part again 4.2 s later, after 70 steps caught up on"
        " from the log; the others went on, 12 steps without it." in text
    )
    assert "The 2 edges all ended with the same weights, bit for bit: 5a5a5a5a5a5a5a5a." in text
    assert "proves 5 hashes" in text
    assert TWO_EDGES.is_well


@pytest.mark.parametrize(
    "group",
    [
        replace(GROUP, edges={**GROUP.edges, "pi-b": replace(GROUP.edges["pi-b"], weights="6b" * 32)}),
        replace(GROUP, proofs_failed=1),
        replace(GROUP, weights="6b" * 32),
    ],
)
def test_edges_that_ended_with_other_weights_are_told_and_are_a_failure(group):
    summary = replace(TWO_EDGES, group=group)

    assert "The edges did NOT end with the same weights: pi-a 5a5a5a5a5a5a5a5a, pi-b " in report.as_text(summary, 1000)
    assert not json.loads(report.as_json(summary))["group"]["is_identical"]
    assert not summary.is_well


@pytest.mark.parametrize(
    ("backend", "no_kernels", "row", "sentence"),
    [
        ("compiled/1", None, "compiled kernels (compiled/1)", ""),
        (
            "numpy",
            "this CPU lacks fma",
            "numpy, which is slower; why, is told below",
            "Trained by numpy: this CPU lacks fma.",
        ),
        ("numpy", None, "numpy", ""),
    ],
    ids=["compiled", "no kernels", "as asked for"],
)
def test_what_computed_is_told_beside_the_speed(backend, no_kernels, row, sentence):
    table, _, below = report.as_text(replace(TWO_EDGES, backend=backend, no_kernels=no_kernels), 1000)[1:].partition(
        "\n\n"
    )

    rows = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in table.splitlines()]
    assert [text for title, text in rows if title == "trained by"] == [row]
    assert below.startswith(sentence or "Tier 1")


def test_a_sample_that_is_missing_is_told():
    assert "240 new ones: NOT each exactly once." in report.as_text(replace(TWO_EDGES, predicted=239), 1000)


def test_without_live_samples_no_figures_are_made_up():
    text = report.as_text(NOT_LIVE, 1000)

    assert "none, as --live 0 asks for" in text
    assert "in 1 epoch\n" in text
    assert "Tier 2, the edge, trained on 34,752 samples to 83.4% test accuracy, and predicted none." in text
    assert "latency" not in text
    assert json.loads(report.as_json(NOT_LIVE))["live_accuracy"] is None


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_the_sentences_are_wrapped(columns):
    sentences = report.as_text(TWO_EDGES, columns).partition("Tier 1")[2]

    assert max(map(len, sentences.splitlines())) <= columns


def plan(folder, **differing):
    """Of a demo with the most edges."""
    usual = topology_text.Plan(
        site="demo",
        bootstrap="127.0.0.1:9092",
        archive={"url": folder.as_uri()},
        stream="fashion-mnist-small",
        shape=(28, 28, 1),
        labels=("one", "two"),
        num_training=1000,
        edges=26,
        epochs=3,
        images=False,
    )
    return replace(usual, **differing)


@pytest.mark.parametrize("num_training", [1000, 60_000])
def test_several_edges_train_one_model_and_one_trains_alone(tmp_path, num_training):
    modes = []
    for edges in (1, 4):
        (tmp_path / "topology.yaml").write_text(
            topology_text.text(plan(tmp_path, edges=edges, num_training=num_training))
        )
        [job] = load(tmp_path / "topology.yaml").jobs
        modes.append((job.exchange.mode, job.exchange.compression, job.source, job.sampling.mode))

    assert modes == [("none", "none", "both", "stratified"), ("all_reduce", "int8", "archive", "uniform")]


@pytest.mark.parametrize("mqtt", ["", "127.0.0.1:1883"])
@pytest.mark.parametrize("labels", [("one",), tuple(f'a "class", number {i}' for i in range(100))])
def test_the_topology_is_valid_and_narrow_with_any_labels_and_the_most_edges(tmp_path, labels, mqtt):
    text = topology_text.text(plan(tmp_path, labels=labels, mqtt=mqtt))
    (tmp_path / "topology.yaml").write_text(text)

    topology = load(tmp_path / "topology.yaml")

    assert topology.streams[0].labels == labels
    assert {device.transport for device in topology.iot} == {"mqtt" if mqtt else "kafka"}
    assert (topology.edges[0].name, topology.edges[-1].name, len(topology.iot)) == ("pi-a", "pi-z", 52)
    url = yaml.safe_load(text)["archive"][0]["url"]
    assert max(len(line) for line in text.splitlines() if url not in line) <= 78
