"""What the pages show is run: commands, the replay's output, exit codes, the Python example.

What needs no broker and no process is in `tests/test_docs.py`.
"""

import asyncio
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from edged import cli, topology_file
from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.host.process_lock import process_lock
from edged.adapters.images import encode
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli import main
from edged.cli.demo.processes import Child
from edged.domain.nn.model import Division
from edged.domain.samples import prediction
from edged.domain.samples.prediction import Prediction
from edged.domain.samples.returned import sample_id
from edged.domain.topology import Topology
from edged.domain.topology.topics import topics
from edged.domain.training import checkpoint
from edged.domain.training import state as state_module
from edged.errors import LogForbidden
from edged.ports import Message, TopicPartition, TopicSpec
from tests.support.archive_samples import open_archive
from tests.support.fake_machine import FakeMachine
from tests.support.pages import ROOT, commands, pages
from tests.support.requirements import require
from tests.support.written_log import WrittenLog

SYSTEMD, CONFIG = pages()["systemd/README.md"], pages()["config/README.md"]

RUN_ELSEWHERE = {
    "mosquitto_sub -i edged:": ("tests/integration/test_mqtt_bridge.py", r"mosquitto_sub"),
    "pip install '.[demo]' && .venv/bin/edged demo": (
        ".ci/run",
        r"pip install --quiet '\.\[demo\]'\n\s*\.venv/bin/edged demo",
    ),
    "pip install -e '.[demo,test]'": (".ci/run", r"pip install (--quiet )?-e '\.\[demo,test\]'"),
    "/opt/edged/bin/pip install .": (".ci/run", r"pip install --quiet \."),
    ".venv/bin/pytest": (".ci/run", r"\.venv/bin/pytest"),
    "apt install openjdk": (".ci/run", r"openjdk-17-jre-headless"),
    "apt install ./edged_": ("tests/slow/test_package.py", r"apt install --yes \./edged_"),
    "kcat -P": ("tests/integration/test_foreign_client.py", '"-P", "-b"'),
    "kcat -C": ("tests/integration/test_foreign_client.py", '"-C", "-b"'),
}
"""Part of a command that is run elsewhere → the file that runs it, and a pattern found there."""

ONLY_READ = ("journalctl ", "runuser ", "systemd-ask-password ", ".ci/run")
"""Run by no test: they need a running systemd or its user, or are the gate itself. `tests/test_docs.py` reads them."""

AS_ROOT = ("install -", "systemctl ", "ln -")
"""Commands that are run here, with the system's folders below one of the test's own."""

ON_A_MACHINE = "edged node "
"""Commands that are run here on a machine of the test's own."""

ADAPTED = {
    "--rate 50": "--rate max",
    "/var/lib/edged/pi-north": "pi-north",
    "/etc/edged/topology.yaml": "topology.yaml",
}
"""Replacements in commands, so that they end soon and find what a node has elsewhere."""

BY_HAND = [(CONFIG, each) for each in CONFIG.commands() if "topology.yaml" in each]
"""A site that is started by hand: commands of which some run until they are stopped."""

NOT_WORDS = re.compile(r"\b[0-9a-f]{16}\b|\d[\d.,]*|\bpi-\w+|[\w./-]*/[\w./-]+")
"""What differs in each output: hashes, numbers, edges and paths."""


def all_commands() -> list[str]:
    return [command for _, command in commands()]


def run_as_root() -> list[str]:
    return [each for each in all_commands() if each.startswith(AS_ROOT)]


def run_here() -> list[str]:
    """What is left must be edged's own commands; the operations' page first, whose commands make the archive."""
    left = [
        *SYSTEMD.commands(),
        *(each for page, each in commands() if page != SYSTEMD and (page, each) not in BY_HAND),
    ]
    others = (*RUN_ELSEWHERE, *AS_ROOT, *ONLY_READ)
    return [
        each
        for each in left
        if not each.startswith((*AS_ROOT, *ONLY_READ, ON_A_MACHINE)) and not any(part in each for part in others)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory, embedded_broker):
    """A folder with config/ and the greenhouse's topology.yaml, whose broker and archive are this machine's."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "config").symlink_to(ROOT / "config")
    text = (ROOT / "config" / "02-greenhouse.yaml").read_text()
    for there, here in (
        ("site: greenhouse", f"site: greenhouse-{secrets.token_hex(4)}"),  # the broker is shared: topics of our own
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
        ("site: orchard", f"site: orchard-{secrets.token_hex(4)}"),
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
    group.begin(*others, num_steps=2)
    group.step(dict.fromkeys(others, 2))
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
def test_what_is_not_run_here_is_shown_and_run_elsewhere(part):
    file, proof = RUN_ELSEWHERE[part]
    assert any(part in each for each in all_commands())
    assert re.search(proof, (ROOT / file).read_text())


async def test_every_other_command_runs_in_the_pages_order(log, place, orchard):
    """Nothing but edged itself is left to be run; each ends with 0."""
    for command in map(adapted, run_here()):
        program, *words = shlex.split(command)
        assert program == "edged", f"run by no test: {command}"
        done = await asyncio.to_thread(edged, place, *words)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert len(run_here()) >= 10


async def test_a_site_is_started_by_hand_as_shown(apache_kafka, tmp_path):
    """In the page's order; what the camera sends is archived, and predicted, once each."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    environment = {name: str(tmp_path / name) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME")}
    nodes: dict[str, Child] = {}
    try:
        for _, command in BY_HAND:
            program, *words = shlex.split(command)
            if words[0] in {"run", "infer"}:
                name = f"{words[0]} {words[-1]}"
                words[1] = str(tmp_path / words[1])
                nodes[name] = await Child.start(name, *words, environment=environment)
            else:
                here = shlex.join([sys.executable, "-m", "edged", *words]) if program == "edged" else command
                done = await asyncio.create_subprocess_shell(
                    here, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}
                )
                assert await done.wait() == 0, command
            if program == "sed":
                text = (tmp_path / "topology.yaml").read_text().replace("127.0.0.1:9092", apache_kafka.bootstrap)
                own = f"site: greenhouse-{secrets.token_hex(4)}"  # the broker is shared
                (tmp_path / "topology.yaml").write_text(text.replace("site: greenhouse", own))
        assert nodes.keys() == {"run vault", "run pi-a", "infer pi-a"}
        await nodes["infer pi-a"].until(
            lambda lines: sum(line["samples"] for line in lines if line["event"] == "infer.predicted") == 100
        )
        await nodes["run vault"].wait_for("archive.flushed", source="pi-a")
        for node in nodes.values():
            assert await node.stop() == 0, node.last_words()
    finally:
        for node in nodes.values():
            await node.stop()


async def test_a_replay_prints_what_is_shown(place, orchard):
    """Line by line the same words."""
    ((page, command),) = [each for each in commands() if each[1].startswith("edged replay")]
    (shown,) = [block for block in page.blocks("text") if "proven:" in block]

    done = await asyncio.to_thread(edged, place, *shlex.split(adapted(command))[1:])

    printed = {NOT_WORDS.sub("…", line) for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in shown.splitlines() if NOT_WORDS.sub("…", line) not in printed] == []


def test_the_commands_for_root_install_the_program_the_units_and_the_topology(tmp_path):
    """With the system's folders below the test's, and a systemd that is not running."""
    if shutil.which("systemctl") is None or shutil.which("systemd-sysusers") is None:
        require("systemctl and systemd-sysusers (Debian: systemd)")
    system, adapted = tmp_path / "system", run_as_root()
    for folder in ("usr/lib/sysusers.d", "usr/local/bin", "etc/systemd/system"):
        (system / folder).mkdir(parents=True)
    for there, here in (
        (" /", f" {system}/"),
        ("systemd-sysusers", f"systemd-sysusers --root={system}"),
        ("systemctl daemon-reload", "true"),
        ("systemctl enable --now", f"systemctl --root={system} enable"),
        (" -o kafka -g kafka", ""),
        (" topology.yaml", " config/02-greenhouse.yaml"),
    ):
        assert any(there in each for each in adapted)
        adapted = [each.replace(there, here) for each in adapted]

    for command in adapted:
        done = subprocess.run(["bash", "-ec", command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"

    installed = {each.name for each in (system / "etc/systemd/system").glob("*.service")}
    assert installed == {"edged@.service", "edged-infer@.service", "kafka.service"}
    assert [each.name for each in (system / "etc/systemd/system/multi-user.target.wants").iterdir()] == [
        "kafka.service"
    ]
    assert (system / "usr/local/bin/edged").readlink() == system / "opt/edged/bin/edged"
    assert topology_file.load(system / "etc/edged/topology.yaml").site == "greenhouse"
    assert {"edged", "kafka"} <= {line.partition(":")[0] for line in (system / "etc/passwd").read_text().splitlines()}


def test_the_commands_for_a_machine_bring_its_nodes_to_run_and_take_one_off(tmp_path, monkeypatch):
    """In the page's order, with the greenhouse's topology."""
    tmp_path.chmod(0o755)  # the machine's root folder
    machine = FakeMachine(tmp_path, monkeypatch)
    machine.put("etc/edged/topology.yaml", (ROOT / "config" / "02-greenhouse.yaml").read_text())
    for module in ("node", "enabled_nodes"):
        monkeypatch.setattr(f"edged.cli.{module}.Machine", machine.opened)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    shown = [each for each in all_commands() if each.startswith(ON_A_MACHINE)]
    for command in shown:
        assert main(shlex.split(command)[1:]) == 0, command
    assert shown == ["edged node enable pi-a", "edged node disable pi-a", "edged node enable vault"]
    assert [machine.is_running(f"edged@{node}.service") for node in ("pi-a", "vault")] == [False, True]


async def test_the_exit_codes_are_those_of_the_table(log, place, orchard, tmp_path, monkeypatch):
    """Each is brought about; none is listed that is not."""
    topology = topology_file.load(place / "topology.yaml")
    assert topology.jobs
    (tmp_path / "wrong.yaml").write_text("schema: 1\n")
    unreachable = (place / "topology.yaml").read_text().replace(topology.kafka.bootstrap[0], "127.0.0.1:1")
    (tmp_path / "unreachable.yaml").write_text(unreachable)
    no_archive = (place / "topology.yaml").read_text().replace(topology.archive[0].url, tmp_path.as_uri())
    (tmp_path / "no-archive.yaml").write_text(no_archive)
    damaged = tmp_path / "damaged"
    open_archive(damaged).create(topology.site)
    (damaged / "fashion" / "pi-a").mkdir(parents=True)
    (damaged / "fashion" / "pi-a" / "junk.parquet").write_text("no file of the archive")
    with_junk = (place / "topology.yaml").read_text().replace(topology.archive[0].url, damaged.as_uri())
    (tmp_path / "damaged.yaml").write_text(with_junk)
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
        with process_lock(tmp_path / "edged" / "pi-a"):
            return run(".", "life.refused")

    def fail(error: BaseException) -> int:
        def failing(name: str) -> NoReturn:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(cli, "_command", failing)
            return main(["check"])

    ended = {
        0: main(["check", str(place / "topology.yaml")]),
        1: main(["archive", "verify", str(tmp_path / "damaged.yaml")]),
        64: main(["run"]),
        65: await asyncio.to_thread(
            main, ["replay", str(place / "orchard.yaml"), "--prove", str(tmp_path / "no-folder")]
        ),
        69: await asyncio.to_thread(main, ["topics", str(tmp_path / "unreachable.yaml"), "--apply"]),
        70: fail(RuntimeError("a defect")),
        73: await asyncio.to_thread(run, "no-folder", "life.refused"),
        74: main(["archive", "ls", str(tmp_path / "no-archive.yaml")]),
        75: await asyncio.to_thread(run_twice),
        77: fail(LogForbidden("who are you?")),
        78: main(["check", str(tmp_path / "wrong.yaml")]),
        130: fail(KeyboardInterrupt()),
    }
    assert ended == {code: code for code in ended}
    told = {int(code) for codes, _ in SYSTEMD.table("code") for code in codes.split(",")}
    assert told - ended.keys() == {129, 141, 143}, "of signals and a closed pipe: see tests/cli"
    assert await asyncio.to_thread(run, ".", "life.crashed") == 78


async def test_the_python_example_publishes_and_prints_a_prediction(log, place):
    """Run as it stands; the companion's part is played here."""
    (source,) = (each for page in pages().values() for each in page.blocks("python"))
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
        sent_back = Prediction(
            "cam-01",
            0,
            records[0].offset,
            records[0].timestamp_ms,
            None,
            "boot",
            0.9,
            {"boot": 0.9},
            1,
            5.0,
            1.0,
            id=sample_id(records[0].headers),
        )
        await log.append([Message(predicted, prediction.encode(sent_back), b"cam-01")])

        assert running.stdout is not None
        assert await running.stdout.readline() == b"boot 0.9\n"
    finally:
        running.kill()
        await running.wait()
