"""`edged replay`: the log of a group, a proof of its weights, and an exit code that says whether they hold."""

import asyncio
import contextlib
import errno
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.domain.group.records import Close, encode
from edged.domain.topology import Kafka
from edged.ports import Message, TopicPartition
from edged.topology_file import load
from tests.cli.conftest import VALID
from tests.support.shared_brokers import SharedBroker
from tests.support.written_log import WrittenLog

GROUP = VALID + "  optimizer: {sgd: {learning_rate: 0.1}}\n  exchange: {mode: all_reduce}\n"


@pytest.fixture(autouse=True)
def _own_log(monkeypatch):
    monkeypatch.setattr("edged.log.output.configure", lambda **_: None)  # it is the whole process's


def trained(file) -> WrittenLog:
    """One epoch and the beginning of the next, where pi-b misses a step."""
    log = WrittenLog(load(Path(file)))
    log.join("pi-a", "pi-b")
    log.begin("pi-a", "pi-b", num_steps=2)
    log.step({"pi-a": 6, "pi-b": 2})
    log.step({"pi-a": 5, "pi-b": 5})
    log.test("pi-a", "pi-b")
    log.begin("pi-a", "pi-b", num_steps=3)
    log.step({"pi-a": 8}, closed_by="pi-a")
    return log


async def with_foreign_transactions(log: MemoryLog) -> MemoryLog:
    """The same records, each between an aborted transaction of another client and its marker."""
    hostile = MemoryLog()
    for record in log.records("lab.train.digits"):
        foreign = hostile.transaction()
        foreign.append([Message(record.topic, encode(Close(0, "pi-a")))])
        foreign.abort()
        await hostile.append([Message(record.topic, record.value)])
    hostile.skip(TopicPartition("lab.train.digits"), 3)
    return hostile


class World:
    """Kafka with one log, the topology file, and the command."""

    def __init__(self, monkeypatch, edged, file):
        self.file, self.edged = file, edged
        self.error: Exception | None = None
        self.kept_from = 0
        self.is_hostile = False
        self.log = trained(file)
        module = ModuleType("edged.adapters.kafka")
        monkeypatch.setattr(module, "KafkaLog", self._connect, raising=False)
        monkeypatch.setitem(sys.modules, "edged.adapters.kafka", module)

    async def _fail(self, _partitions):
        assert self.error is not None
        raise self.error

    @contextlib.asynccontextmanager
    async def _connect(self, _kafka, health, **_options):
        memory = MemoryLog(health)
        if self.error:
            memory.watermarks = self._fail  # type: ignore[method-assign]
        await memory.append([Message("lab.train.digits", blob) for blob in self.log.blobs])
        if self.is_hostile:
            memory = await with_foreign_transactions(memory)
        if self.kept_from:
            memory.truncate(TopicPartition("lab.train.digits"), self.kept_from)
        yield memory

    def replay(self, *words):
        return self.edged("replay", self.file, *words)


@pytest.fixture
def world(monkeypatch, edged, topology_file):
    return World(monkeypatch, edged, topology_file(GROUP))


def test_by_epoch_the_report_has_contributions_and_proofs(world):
    code, out, err = world.replay()

    assert (code, err) == (0, "")
    digest = world.log.digest()[:16]
    lines = out.splitlines()
    assert lines[0] == "epoch 0: 2 steps from step 0 on; pi-a 50%, pi-b 50%; gradients by numpy"
    assert lines[1].startswith("proven: epoch 0 as pi-a began it, step 0, weights ")
    assert lines[2:5] == [
        "  pi-a: 2 of 2 steps, 11 samples, loss 0.5000, accuracy 0.455, 0 missed",
        "  pi-b: 2 of 2 steps, 7 samples, loss 0.5000, accuracy 0.429, 0 missed",
        "  tested by 2: 20 samples, loss 0.7500, accuracy 0.500",
    ]
    assert "  pi-b: 0 of 1 step, 0 samples, 1 missed" in lines
    assert lines[-2:] == [f"the log leads to step 3, weights {digest}", "all 2 hashes are proven"]
    assert "  step " not in out


def test_the_report_says_how_far_the_quarantine_was_in_effect(world):
    world.log = log = WrittenLog(load(Path(world.file)))
    log.join("pi-a")
    log.quarantine_end = 3
    log.begin("pi-a", num_steps=1)

    assert world.replay()[1].splitlines()[0].endswith("; pi-a 100%; gradients by numpy; quarantine up to 3")
    epochs = json.loads(world.replay("--json")[1])["epochs"]
    assert [epoch["quarantine_end"] for epoch in epochs] == [3]


def test_a_log_with_other_clients_transactions_is_replayed_to_its_end(world):
    _, expected, _ = world.replay()
    world.is_hostile = True

    assert world.replay() == (0, expected, "")


def test_step_by_step_the_report_has_the_missing_members(world):
    _, out, _ = world.replay("--steps")

    assert "  step 0: pi-a 6 (loss 0.5000), pi-b 2 (loss 0.5000)\n" in out
    assert "  step 2: pi-a 8 (loss 0.5000); missing pi-b\n" in out


def test_a_members_checkpoint_is_proven_from_a_file_or_the_newest_of_a_folder(world, tmp_path):
    (tmp_path / "pi-b").mkdir()
    (tmp_path / "pi-b" / "checkpoint-000000000001.safetensors").write_bytes(b"an old one")
    newest = tmp_path / "pi-b" / "checkpoint-000000000003.safetensors"
    newest.write_bytes(world.log.checkpoint())

    code, out, _ = world.replay("--prove", str(newest), "--prove", str(newest.parent))

    assert code == 0
    for path in (newest, newest.parent):
        assert f"proven: {path}, step 3, weights {world.log.digest()[:16]}\n" in out
    assert out.endswith("all 4 hashes are proven\n")


def test_weights_other_than_the_logs_are_reported_and_end_with_1(world, tmp_path):
    right = world.log.digest()
    world.log.weights = world.log.weights + 1
    (tmp_path / "other.safetensors").write_bytes(world.log.checkpoint())

    code, out, _ = world.replay("--prove", str(tmp_path / "other.safetensors"))

    assert code == 1
    other = world.log.digest()[:16]
    assert f"other.safetensors, step 3: weights {other}, but the log leads to {right[:16]}\n" in out
    assert out.endswith("1 of 3 proofs failed\n")


def test_a_begin_with_wrong_weights_ends_with_1(world):
    world.log.step({"pi-a": 1, "pi-b": 1})
    world.log.step({"pi-a": 1, "pi-b": 1})
    world.log.begin("pi-a", num_steps=1, weights="0" * 64)

    code, out, _ = world.replay()

    assert code == 1
    assert "DIFFERENT: epoch 2 as pi-a began it, step 5: weights 0000000000000000, but the log leads to" in out


def test_a_checkpoint_beyond_the_logs_end_is_not_proven(world, tmp_path):
    blobs = list(world.log.blobs)
    world.log.step({"pi-a": 1, "pi-b": 1})
    (tmp_path / "ahead").write_bytes(world.log.checkpoint())
    world.log.blobs = blobs

    code, out, _ = world.replay("--prove", str(tmp_path / "ahead"))

    assert code == 1
    assert f"NOT PROVEN: {tmp_path / 'ahead'}: the log does not lead to step 4" in out


def test_from_a_checkpoint_only_later_records_are_replayed(world, tmp_path):
    (tmp_path / "begin").write_bytes(world.log.checkpoint())
    world.log.step({"pi-a": 1, "pi-b": 1})
    world.kept_from = 5

    code, out, _ = world.replay("--from", str(tmp_path / "begin"), "--steps")

    assert code == 0
    assert re_steps(out) == ["3"]
    assert f"the log leads to step 4, weights {world.log.digest()[:16]}\n" in out


def re_steps(out: str) -> list[str]:
    return [line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("  step ")]


def test_a_log_without_its_beginning_is_refused_with_a_hint(world):
    world.kept_from = 3

    code, out, err = world.replay()

    assert (code, out) == (65, "")
    assert err == (
        "edged replay: lab.train.digits: the log goes on at offset 3, not 0 (begin with --from, at a checkpoint"
        " whose position is still in the log)\n"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"torn", "x.safetensors: "),
        (None, "no checkpoint is there"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_ends_with_65(world, tmp_path, content, said):
    (tmp_path / "folder").mkdir()
    if content:
        (tmp_path / "folder" / "x.safetensors").write_bytes(content)

    code, _, err = world.replay("--prove", str(tmp_path / "folder" / ("x.safetensors" if content else "")))

    assert code == 65
    assert said in err


def test_a_checkpoint_that_is_not_to_be_seen_ends_with_65(world, tmp_path, monkeypatch):
    """As with systemd's folders, for whoever is not the node's user."""

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.is_dir", refuse)
    code, _, err = world.replay("--prove", str(tmp_path / "pi-a"))
    assert code == 65
    assert err.endswith(f"{tmp_path}/pi-a: Permission denied\n")


def test_a_checkpoint_larger_than_the_edges_memory_is_refused_before_it_is_read(world, tmp_path):
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.truncate(3 << 30)
    code, _, err = world.replay("--prove", str(tmp_path / "x.safetensors"))
    assert code == 65
    assert "x.safetensors: it has 3221225472 bytes; at most 268435456 are read" in err


def test_a_checkpoint_of_another_job_ends_with_65(world, tmp_path):
    (tmp_path / "other").write_bytes(world.log.checkpoint())
    with Path(world.file).open("a") as file:
        file.write("  seed: 5\n")

    code, _, err = world.replay("--prove", str(tmp_path / "other"))

    assert code == 65
    assert "belongs to another stream, model, optimizer" in err


def test_the_json_has_the_whole_report(world):
    world.log.add_blob(b"garbage")

    code, out, _ = world.replay("--json", "--steps")

    report = json.loads(out)
    assert code == 0
    assert (report["holds"], report["step"], report["weights"]) == (True, 3, world.log.digest())
    assert [epoch["edges"]["pi-b"]["missed"] for epoch in report["epochs"]] == [0, 1]
    assert report["epochs"][0]["tested"] == {"edges": 2, "samples": 20, "loss": 0.75, "accuracy": 0.5}
    assert report["steps"][2]["missing"] == ["pi-b"]
    assert report["steps"][2]["contributions"] == {"pi-a": {"samples": 8, "loss": 0.5, "accuracy": 0.5}}
    assert [proof["holds"] for proof in report["proofs"]] == [True, True]
    assert report["not_counted"][0]["records"] == 1
    assert "steps" not in json.loads(world.replay("--json")[1])


def test_kafka_that_does_not_answer_ends_with_69(world):
    world.error = TimeoutError()

    code, _, err = world.replay()

    assert (code, err) == (69, "edged: Kafka at localhost:9092 does not answer\n")


def test_without_a_group_there_is_no_log_to_replay(edged, topology_file):
    code, _, err = edged("replay", topology_file())

    assert (code, err) == (78, "topology.yaml: no job has an exchange: there is no log to replay\n")


def test_one_of_several_jobs_must_be_named(edged, topology_file):
    head, _, job = GROUP.partition("training:\n")
    job = job.replace("\n  ", "\n    ")[2:]
    file = topology_file(f"{head}training:\n  - name: a\n    {job}  - name: b\n    {job}")

    for words, said in (
        ((), "several jobs have an exchange"),
        (("--job", "c"), 'no job with an exchange is called "c"'),
    ):
        code, _, err = edged("replay", file, *words)
        assert code == 78
        assert err == f"topology.yaml: {said} (--job takes one of: a, b)\n"


async def test_it_reads_the_log_in_kafka(embedded_broker: SharedBroker, edged, topology_file):
    file = topology_file(
        GROUP.replace("localhost:9092", embedded_broker.bootstrap).replace("site: lab", "site: replay")
    )
    log = trained(file)
    async with KafkaLog(Kafka((embedded_broker.bootstrap,)), RecordingHealth()) as kafka:
        await kafka.append([Message("replay.train.digits", blob) for blob in log.blobs])

    code, out, _ = await asyncio.to_thread(edged, "replay", file)

    assert code == 0
    assert f"the log leads to step 3, weights {log.digest()[:16]}\n" in out
