"""`edged replay`: reads the log from Kafka and the checkpoint files, and prints the report.

For a user's mistakes raises only what every command may: ConfigError and TransientError.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import aclosing
from pathlib import Path

from edged import topology_file
from edged.access import why_refused
from edged.cli.backbone import look_up
from edged.cli.problems import complain
from edged.cli.prompt_log import PromptLog, prompt_log
from edged.cli.replay.report import Report
from edged.domain.group import state as state_module
from edged.domain.group import state_json, step
from edged.domain.group.replay import Claim, Replay, ReplayEvent
from edged.domain.nn import param_vector
from edged.domain.nn.model import Model
from edged.domain.topology import Job, Topology, Training
from edged.domain.training import checkpoint
from edged.domain.training.learner import Learner
from edged.domain.training.state import TrainState
from edged.errors import (
    AnotherVersion,
    CheckpointCorrupt,
    ConfigError,
    FormatError,
    LogGap,
    Problem,
    TopologyMismatch,
)
from edged.files import read_regular
from edged.log import output
from edged.ports import TopicPartition
from edged.reading import read_to_end
from edged.services.group.log.ordered_reader import read_in_order
from edged.settings import job_folder

Take = Callable[[Iterable[ReplayEvent]], None]

_DIFFERS = 1
_POLL_RECORDS = 64


def replay_log(
    file: Path, job_name: str | None, begin: Path | None, proven: list[Path], *, with_steps: bool, as_json: bool
) -> int:
    """Replay the log up to its current end and print the report; return the exit code."""
    topology = topology_file.load(file, look_up_backbone=look_up)
    job = _job(topology, job_name, str(file))
    report = Report(None if as_json else sys.stdout, with_steps=with_steps)
    output.configure(node="replay", tier="operator", run_id="replay", level="error")
    try:
        replay = prepare(topology, job, begin, proven)
        asyncio.run(_run(topology, job, replay, report.take))
    except (CheckpointCorrupt, TopologyMismatch, FormatError) as error:
        complain("edged replay", error)
        return os.EX_DATAERR
    except LogGap as gap:
        hint = "begin with --from, at a checkpoint whose position is still in the log"
        complain("edged replay", f"{topology.train_topic(job)}: {gap} ({hint})")
        return os.EX_DATAERR
    report.end(replay)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    return 0 if report.holds else _DIFFERS


def _job(topology: Topology, name: str | None, file: str) -> Training:
    """The job of that name, or the only one that a group trains. Raises ConfigError."""
    jobs = {job.name or job.stream: job for job in topology.jobs if job.exchange.mode != "none"}
    if not jobs:
        raise ConfigError((Problem("", "no job has an exchange: there is no log to replay", "", file),))
    if name is None and len(jobs) == 1:
        return next(iter(jobs.values()))
    if name not in jobs:
        problem = "several jobs have an exchange" if name is None else f'no job with an exchange is called "{name}"'
        raise ConfigError((Problem("", problem, f"--job takes one of: {', '.join(jobs)}", file),))
    return jobs[name]


def prepare(topology: Topology, job: Training, begin: Path | None, proven: list[Path]) -> Replay:
    """A replay that is ready to take the first record. `proven`: checkpoint files or folders whose weights to prove.

    Raises CheckpointCorrupt, AnotherVersion and TopologyMismatch.
    """
    resolved = topology.resolve(job)
    if begin is None:
        state = Learner(job, Model(resolved.input_shape, job.model, loss=job.loss, micro_batch=1)).initial(
            resolved.digest
        )
        group = state_module.State()
    else:
        state = _read(begin, resolved, topology)
        group = state_json.from_json(state.exchange)
    rules = step.rules(resolved, param_vector.size(state.params))
    return Replay(job, rules, state, group, [_claim(path, resolved, topology) for path in proven])


def _claim(path: Path, job: Job, topology: Topology) -> Claim:
    state = _read(path, job, topology)
    return Claim(str(path), state_json.from_json(state.exchange).step, param_vector.digest(state.params))


def _read(path: Path, job: Job, topology: Topology) -> TrainState:
    """The checkpoint in the file, or the newest in the folder.

    Raises CheckpointCorrupt, AnotherVersion and TopologyMismatch. No edge has written a file larger than its memory.
    """
    file = path
    try:
        file = _newest(path, job) if path.is_dir() else path
        blob = read_regular(file, max(edge.memory_limit for edge in topology.edges))
    except OSError as error:
        raise CheckpointCorrupt(f"{file}: {why_refused(file, error, reads=True)}") from error
    try:
        state = checkpoint.decode(blob, job=job.digest)
    except (AnotherVersion, CheckpointCorrupt, TopologyMismatch) as error:
        raise type(error)(f"{file}: {error}") from error
    if not state.exchange:
        raise CheckpointCorrupt(f"{file}: it was not made by a member of a group")
    return state


def _newest(folder: Path, job: Job) -> Path:
    for each in (folder, job_folder(folder, job.name)):
        if files := sorted(each.glob("checkpoint-*.safetensors")):
            return files[-1]
    raise CheckpointCorrupt(f"{folder}: no checkpoint is there")


async def _run(topology: Topology, job: Training, replay: Replay, take: Take) -> None:
    """Take all records up to the log's current end. Raises LogGap and LogUnavailable."""
    async with prompt_log(topology.kafka) as kafka:
        await _take_all(kafka, TopicPartition(topology.train_topic(job)), replay, take)


async def _take_all(kafka: PromptLog, partition: TopicPartition, replay: Replay, take: Take) -> None:
    low, _stable, high = (await kafka.answer(kafka.log.watermarks([partition])))[partition]
    if not low <= replay.next_offset <= high:
        raise LogGap(replay.next_offset, low)
    take(replay.begin())
    async with (
        read_in_order(kafka.log, partition, replay.next_offset) as reader,
        aclosing(read_to_end(kafka.log, reader, partition, max_records=_POLL_RECORDS)) as reading,
    ):
        while records := await kafka.answer(anext(reading, None)):
            for record in records:
                take(replay.take(record.value, record.offset))
    take(replay.end())
