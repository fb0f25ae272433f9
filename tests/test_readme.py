"""README is true: its commands run, its file is a topology, its words for events and exit codes are the program's."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edged import topology_file
from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.host.process_lock import sole_process
from edged.adapters.images import encode
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli import main
from edged.domain.nn.model import Division
from edged.domain.samples import prediction
from edged.domain.samples.prediction import Prediction
from edged.domain.topology import Topology
from edged.domain.topology.topics import topics
from edged.domain.training import checkpoint
from edged.domain.training import state as state_module
from edged.events import EVENTS
from edged.ports import Message, TopicPartition, TopicSpec
from tests.support.requirements import require
from tests.support.written_log import WrittenLog

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

RUN_ELSEWHERE = {
    "pip install '.[demo]' && .venv/bin/edged demo": (
        ".ci/run",
        "pip install --quiet '.[demo]'\n  .venv/bin/edged demo",
    ),
    ".venv/bin/pytest": (
        ".ci/run",
        ".venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not quiet'\n.venv/bin/pytest -m quiet",
    ),
    "/opt/edged/bin/pip install .": (".ci/run", "pip install --quiet ."),
    "kcat -P": ("tests/integration/test_foreign_client.py", '"-P", "-b"'),
    "kcat -C": ("tests/integration/test_foreign_client.py", '"-C", "-b"'),
}
"""What a command holds that is run elsewhere: (the file that runs it, and the words there)."""

NEEDS_SYSTEMD = "journalctl "
"""Run by nobody: it shows what a running systemd has collected."""

AS_ROOT = ("install -", "systemctl ")
"""Commands that are run here, with the system's folders below one of the test's own."""

ADAPTED = {"--rate 50": "--rate max", "/var/lib/edged/pi-north": "pi-north"}
"""What a command is changed in, so that it ends soon and finds what is elsewhere on a node."""

NOT_WORDS = re.compile(r"\b[0-9a-f]{16}\b|\d[\d.,]*|\bpi-\w+|[\w./-]*/[\w./-]+")
"""What is another in each output: hashes, numbers, edges and paths."""


def blocks(language: str) -> list[str]:
    """The fenced blocks of README in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """All command lines, without their comments."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line]
    return [shlex.join(shlex.split(line, comments=True)) if "#" in line else line for line in lines]


def run_as_root() -> list[str]:
    return [each for each in commands() if each.startswith(AS_ROOT)]


def run_here() -> list[str]:
    """What is left must be edged's own commands."""
    others = (*RUN_ELSEWHERE, NEEDS_SYSTEMD)
    return [each for each in commands() if not each.startswith(AS_ROOT) and not any(part in each for part in others)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, embedded_broker):
    """A folder with config/ and the greenhouse's topology.yaml, whose broker and archive are this machine's."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "config").symlink_to(ROOT / "config")
    text = (ROOT / "config" / "02-greenhouse.yaml").read_text()
    for there, here in (
        ("broker.greenhouse.lan:9092", embedded_broker.bootstrap),
        ("file:///srv/edged", (folder / "archive").as_uri()),
    ):
        assert there in text
        text = text.replace(there, here)
    (folder / "topology.yaml").write_text(text)
    return folder


@pytest.fixture
async def log(place):
    """A connection to the broker, where the greenhouse's topics are."""
    topology = topology_file.load(place / "topology.yaml")
    async with KafkaLog(topology.kafka, RecordingHealth()) as log:
        await log.ensure([TopicSpec(each.name) for each in topics(topology)])
        yield log


@pytest.fixture
async def orchard(place, log, embedded_broker):
    """orchard.yaml, its group's log, and the state folder of one of its members."""
    if (place / "orchard.yaml").exists():
        return
    text = (ROOT / "config" / "06-four-edges.yaml").read_text()
    for there, here in (
        ("broker.orchard.lan:9092", embedded_broker.bootstrap),
        ("reference_batch: 128", "reference_batch: 512"),  # the log is written by hand, with one learning rate
        ("cosine: {warmup: 2}", "constant: {warmup: 0}"),
    ):
        assert there in text
        text = text.replace(there, here)
    (place / "orchard.yaml").write_text(text)
    topology = topology_file.load(place / "orchard.yaml")
    group = a_log_of_four(topology)
    await log.append([Message(topology.train_topic(topology.jobs[0]), blob) for blob in group.blobs])
    (place / "pi-north").mkdir()
    (place / "pi-north" / "checkpoint-000000000001.safetensors").write_bytes(group.checkpoint())


def a_log_of_four(topology: Topology) -> WrittenLog:
    """Two epochs: in the first somebody misses a step and is late, the second is without it."""
    group = WrittenLog(topology)
    north, *others = edges = [edge.name for edge in topology.edges]
    group.join(*edges)
    group.begin(*edges, num_steps=2)
    group.step(dict.fromkeys(edges, 2))
    group.step(dict.fromkeys(others, 2), closed_by=others[0])
    group.add(*group.gradient(north, 2, step=group.state.step - 1)[0])
    group.test(*others)
    group.begin(*others, num_steps=1)
    group.step(dict.fromkeys(others, 2))
    group.test(*others)
    return group


def edged(place: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process in that folder."""
    return subprocess.run(
        [sys.executable, "-m", "edged", *words],
        cwd=place, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def adapted(command: str) -> str:
    for there, here in ADAPTED.items():
        command = command.replace(there, here)
    return command


@pytest.mark.parametrize("part", RUN_ELSEWHERE)
def test_what_is_not_run_here_is_in_readme_and_run_where_it_is_said_to_be(part):
    file, proof = RUN_ELSEWHERE[part]
    assert any(part in each for each in commands())
    assert proof in (ROOT / file).read_text()


@pytest.mark.integration
async def test_every_other_command_runs_in_readmes_order(log, place, orchard):
    """Nothing but edged itself is left to be run; each ends with 0."""
    for command in map(adapted, run_here()):
        program, *words = shlex.split(command)
        assert program == "edged", f"run by no test: {command}"
        done = await asyncio.to_thread(edged, place, *words)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert len(run_here()) >= 8


@pytest.mark.integration
async def test_a_replay_says_what_it_is_shown_to_say(place, orchard):
    """Line by line the same words."""
    [command] = [each for each in commands() if each.startswith("edged replay")]
    [shown] = blocks("text")

    done = await asyncio.to_thread(edged, place, *shlex.split(adapted(command))[1:])

    said = {NOT_WORDS.sub("…", line) for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in shown.splitlines() if NOT_WORDS.sub("…", line) not in said] == []


def test_the_commands_for_root_install_and_enable_the_units(tmp_path):
    """With the system's folders below the test's, and a systemd that is not running."""
    if shutil.which("systemctl") is None or shutil.which("systemd-sysusers") is None:
        require("systemctl and systemd-sysusers (Debian: systemd)")
    system, adapted = tmp_path / "system", run_as_root()
    for folder in ("usr/lib/sysusers.d", "etc/systemd/system"):
        (system / folder).mkdir(parents=True)
    for there, here in (
        (" /", f" {system}/"),
        ("systemd-sysusers", f"systemd-sysusers --root={system}"),
        ("systemctl daemon-reload", "true"),
        ("systemctl enable --now", f"systemctl --root={system} enable"),
        (" topology.yaml", " config/02-greenhouse.yaml"),
        (" -o edged -g edged", ""),
    ):
        assert any(there in each for each in adapted)
        adapted = [each.replace(there, here) for each in adapted]

    for command in adapted:
        done = subprocess.run(["bash", "-ec", command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"

    wants = system / "etc/systemd/system/multi-user.target.wants"
    assert {each.name for each in wants.iterdir()} == {
        "edged@pi-a.service",
        "edged-infer@pi-a.service",
        "edged@vault.service",
    }
    assert topology_file.load(system / "etc/edged/topology.yaml").site == "greenhouse"
    assert "edged:" in (system / "etc/passwd").read_text()


def test_every_command_of_edged_is_one(capsys):
    """Also those that README names in passing."""
    named = set(re.findall(r"`edged ([a-z]+)", README))
    for name in named:
        assert main([name, "--help"]) == 0, name
    assert {"demo", "check"} <= named
    capsys.readouterr()
    options = re.findall(r"`(--[a-z]+)[ `]", README)
    main(["demo", "--help"])
    shown = capsys.readouterr().out
    assert {"--epochs", "--edges", "--data", "--broker", "--keep", "--json", "--kill"} <= set(options)
    assert [option for option in options if option not in shown] == []


def test_the_topology_shown_is_the_greenhouses(tmp_path):
    """It is a valid file by itself, and all that it shows stands in config/02-greenhouse.yaml."""
    text, _ = blocks("yaml")
    (tmp_path / "topology.yaml").write_text(text)
    topology_file.load(tmp_path / "topology.yaml")

    assert_within(yaml.safe_load(text), yaml.safe_load((ROOT / "config" / "02-greenhouse.yaml").read_text()))


def test_the_groups_settings_shown_are_those_of_the_four_edges():
    """As they stand there, comments and all."""
    _, shown = blocks("yaml")
    lines = (ROOT / "config" / "06-four-edges.yaml").read_text().splitlines()
    assert [line for line in shown.splitlines() if line not in lines] == []


def assert_within(shown: Any, whole: Any, place: str = "") -> None:
    """Mappings may leave keys out, lists nothing."""
    if isinstance(shown, dict):
        assert shown.keys() <= whole.keys(), place
        for key in shown:
            assert_within(shown[key], whole[key], f"{place}.{key}")
    elif isinstance(shown, list):
        assert len(shown) == len(whole), place
        for number, (each, other) in enumerate(zip(shown, whole, strict=True)):
            assert_within(each, other, f"{place}[{number}]")
    else:
        assert shown == whole, place


def test_every_event_named_exists():
    families = {name.partition(".")[0] for name in EVENTS}
    named = {name for name in re.findall(r"`([a-z]+\.[a-z_]+)`", README) if name.partition(".")[0] in families}
    assert len(named) >= 9
    assert named <= EVENTS.keys()


def test_the_series_has_what_readme_says_of_it():
    """Each quantity of the row of `res.sample` is a field of it."""
    (row,) = re.findall(r"^\| `res.sample` \| (.*) \|$", README, re.MULTILINE)
    told = {
        "CPU": "cpu_percent",
        "memory": "memory_used_bytes",
        "disk": "disk_written_bytes_per_s",
        "network": "net_received_bytes_per_s",
        "samples/s": "trained_samples_per_s",
        "the share of time the trainer waited": "wait_fraction",
        "lag": "lag_records",
        "queue bytes": "queue_bytes",
    }
    quantities = re.sub(r"\(.*?\)", "", row.partition(":")[2])
    assert [each.strip() for each in re.split("[,;]", quantities)] == list(told)
    assert EVENTS["res.sample"].fields.keys() >= set(told.values())


def first_column(header: str) -> set[str]:
    """The words in backticks at the beginning of the rows of README's table with this header."""
    (table,) = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines())))


def test_the_layers_and_settings_of_training_are_those_of_the_file():
    """All layers; of the settings, those that are not about the data or the node."""
    training: dict[str, Any] = topology_file.json_schema()["properties"]["training"]["anyOf"][0]["properties"]
    words, *mappings = training["model"]["items"]["anyOf"]
    assert first_column("layer") == {*words["enum"], *(name for each in mappings for name in each["properties"])}
    elsewhere = {"name", "stream", "model", "source", "epochs", "global_batch", "seed", "sampling", "exchange"}
    elsewhere |= {"test_fraction", "test_samples", "live_epoch", "checkpoint"}
    assert first_column("key of `training`") == training.keys() - elsewhere


def test_the_settings_of_a_group_are_those_of_the_file():
    training: dict[str, Any] = topology_file.json_schema()["properties"]["training"]["anyOf"][0]["properties"]
    assert first_column("key of `exchange`") == training["exchange"]["properties"].keys()


def test_the_modes_of_sampling_told_are_those_of_the_file():
    (told,) = re.findall(r"^\| mode \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    sampling = topology_file.json_schema()["properties"]["training"]["anyOf"][0]["properties"]["sampling"]
    modes = set(sampling["properties"]["mode"]["anyOf"][0]["enum"])
    assert modes <= set(re.findall(r"`(\w+)`", told))
    assert first_column("mode") == {mode for mode in modes if not mode.endswith("_published")}


@pytest.mark.parametrize("bench", sorted(set(re.findall(r"`python -m (tests\.bench\.\w+)", README))))
def test_the_benchmarks_named_take_the_usual_options(bench):
    """They themselves take minutes and a quiet machine."""
    done = subprocess.run([sys.executable, "-m", bench, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"--quick", "--json"} <= set(re.findall(r"--\w+", done.stdout))


def exit_codes() -> dict[int, str]:
    """What README says of each."""
    (text,) = re.findall(r"Exit codes: (.*?)\.\n", README, re.DOTALL)
    return {int(code): says for code, says in re.findall(r"(\d+) ([^;]+)", " ".join(text.split()))}


@pytest.mark.integration
async def test_the_exit_codes_are_as_told(log, place, tmp_path, monkeypatch):
    """Each is brought about; none is told that is not."""
    topology = topology_file.load(place / "topology.yaml")
    assert topology.jobs
    (tmp_path / "wrong.yaml").write_text("schema: 1\n")
    unreachable = (place / "topology.yaml").read_text().replace(topology.kafka.bootstrap[0], "127.0.0.1:1")
    (tmp_path / "unreachable.yaml").write_text(unreachable)
    no_archive = (place / "topology.yaml").read_text().replace(topology.archive[0].url, tmp_path.as_uri())
    (tmp_path / "no-archive.yaml").write_text(no_archive)
    (tmp_path / "no-folder").write_text("in the way")
    # Weights of another model in the folder: the trainer cannot begin.
    weights = {"w": np.zeros(1, np.float32)}
    CheckpointDir(tmp_path / "edged" / "pi-a").save(
        checkpoint.encode(state_module.TrainState(weights, {"velocity": weights}, "?", Division(1, 1))), 1
    )
    monkeypatch.setattr("edged.cli.prompt_log.TIMEOUT_S", 0.1)

    def run(state: str, event: str) -> int:
        done = edged(place, "run", "topology.yaml", "--node", "pi-a", XDG_STATE_HOME=str(tmp_path / state))
        assert f'"event": "{event}"' in done.stderr
        return done.returncode

    def run_twice() -> int:
        with sole_process(tmp_path / "edged" / "pi-a"):
            return run(".", "life.refused")

    codes = {
        "done": main(["check", str(place / "topology.yaml")]),
        "a service failed or the node cannot start": await asyncio.to_thread(run, "no-folder", "life.refused"),
        "wrong usage": main(["run"]),
        "Kafka did not answer a command": await asyncio.to_thread(
            main, ["topics", str(tmp_path / "unreachable.yaml"), "--apply"]
        ),
        "there is no archive, or it refused": main(["archive", "ls", str(tmp_path / "no-archive.yaml")]),
        "the node runs already": await asyncio.to_thread(run_twice),
        "the topology file is wrong, or the checkpoints belong to another model or data set, which the log then says": (
            main(["check", str(tmp_path / "wrong.yaml")])
        ),
    }
    assert {says: code for code, says in exit_codes().items()} == codes
    assert await asyncio.to_thread(run, ".", "life.crashed") == 78


@pytest.mark.integration
async def test_the_python_example_publishes_and_prints_a_prediction(log, place):
    """Run as it stands; the companion's part is played here."""
    (source,) = blocks("python")
    topology = topology_file.load(place / "topology.yaml")
    sent, predicted = TopicPartition(topology.device_topic("cam-01")), topology.predictions_topic("pi-a")
    begin = (await log.watermarks([sent]))[sent].high
    (place / "photo.jpg").write_bytes(encode(np.zeros((28, 28, 1), np.uint8), "jpeg"))
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", source,
        cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with log.reader({sent: begin}) as reader:
            while not (records := await reader.poll(max_records=1, timeout_s=1)):
                assert running.returncode is None
        assert (records[0].key, records[0].value) == (b"boot", (place / "photo.jpg").read_bytes())
        told = Prediction(
            "cam-01", 0, records[0].offset, records[0].timestamp_ms, "boot", 0.9, {"boot": 0.9}, 1, 5.0, 1.0
        )
        await log.append([Message(predicted, prediction.encode(told), b"cam-01")])

        assert running.stdout is not None
        assert await running.stdout.readline() == b"boot 0.9\n"
    finally:
        running.kill()
        await running.wait()
