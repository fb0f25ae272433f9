"""A training group: a member's trainer, and the parameter servers of a node."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from edged.domain.group import step
from edged.domain.nn.model import Model
from edged.domain.nn.spec import num_parameters
from edged.domain.topology import Job
from edged.ports import Health, Log
from edged.services.epochs.loader import EpochLoader
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.checkpoints.reader import GroupTopics
from edged.services.group.log.group_log import GroupAddress
from edged.services.group.parameter_server import ParameterServer
from edged.services.group.planner import GroupPlanner
from edged.services.group.trainer import GroupTrainer
from edged.services.training.checkpointing import Checkpointing


def group_trainer(
    job: Job,
    edge: str,
    log: Log,
    health: Health,
    executor: Executor,
    model: Model,
    checkpointing: Checkpointing,
    epochs: EpochLoader,
    planner: GroupPlanner,
) -> GroupTrainer:
    """The trainer of a job that the edges of the topology train together."""
    written = job.train_topic if job.server is None else job.gradients_topic
    return GroupTrainer(
        job.training,
        model,
        checkpointing,
        _announcements(job, log),
        log,
        health,
        GroupAddress(edge, job.members, job.train_topic, written),
        rules=step.rules(job, model.num_parameters),
        epochs=epochs,
        planner=planner,
        fold=step.fold_of(job.training),
        executor=executor,
    )


def servers(jobs: Sequence[Job], node: str, log: Log) -> Mapping[str, ParameterServer]:
    """The parameter servers that run on `node`: one for each of its jobs that names it."""
    served = [job for job in jobs if job.server == node]
    return {f"server:{job.name}" if job.name else "server": _server(job, log) for job in served}


def _server(job: Job, log: Log) -> ParameterServer:
    return ParameterServer(
        log,
        step.rules(job, num_parameters(job.input_shape, job.training.model)),
        _announcements(job, log),
        gradients=job.gradients_topic,
        train=job.train_topic,
        compression=job.training.exchange.compression,
        job=job.name,
    )


def _announcements(job: Job, log: Log) -> CheckpointPublisher:
    return CheckpointPublisher(log, GroupTopics(job.checkpoints_topic, job.train_topic, job.digest, job.members))
