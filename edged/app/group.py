"""Composes a training group: a member's trainer, and the parameter servers of a node."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from edged.domain.group import step as group_step
from edged.domain.group.state import Rules
from edged.domain.nn.model import Model
from edged.domain.nn.spec import num_parameters
from edged.domain.topology import Job, Training
from edged.domain.training.learner import Learner
from edged.domain.training.state import TrainState
from edged.ports import Health, LaneClock, Log
from edged.services.epochs.loader import EpochLoader
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.checkpoints.reader import GroupTopics
from edged.services.group.checkpoints.recovery import Recovery
from edged.services.group.contribution import ContributionMaker
from edged.services.group.follower import Follower
from edged.services.group.liveness import Liveness
from edged.services.group.log.deadline import FIRST_DEADLINE_S, MIN_DEADLINE_S
from edged.services.group.log.group_log import GroupAddress, GroupLog
from edged.services.group.member import Member
from edged.services.group.parameter_server import ParameterServer
from edged.services.group.planner import GroupPlanner
from edged.services.group.steps import StepRunner
from edged.services.group.trainer import GroupTrainer
from edged.services.training.checkpointing import Checkpointing
from edged.services.training.worker_map import worker_map
from edged.settings import Timing


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
    lanes: LaneClock,
    timing: Timing,
) -> GroupTrainer:
    """The trainer of a job that the edges of the topology train together."""
    return member_trainer(
        job.training,
        model,
        checkpointing,
        epochs,
        planner,
        log,
        health,
        lanes,
        address=GroupAddress(
            edge, job.members, job.train_topic, job.train_topic if job.server is None else job.gradients_topic
        ),
        topics=_topics(job),
        rules=group_step.rules(job, model.num_parameters),
        first_deadline_s=timing.first_deadline_s,
        min_deadline_s=timing.min_deadline_s,
        executor=executor,
    )


def member_trainer(
    training: Training,
    model: Model,
    checkpointing: Checkpointing,
    epochs: EpochLoader,
    planner: GroupPlanner,
    log: Log,
    health: Health,
    lanes: LaneClock,
    *,
    address: GroupAddress,
    topics: GroupTopics,
    rules: Rules,
    first_deadline_s: float = FIRST_DEADLINE_S,
    min_deadline_s: float = MIN_DEADLINE_S,
    executor: Executor | None = None,
) -> GroupTrainer:
    """The trainer of one member. `planner`: the one that `epochs` draws its plans by.

    With `executor` the model's lanes are computed on its threads (its BLAS threads are the caller's matter).
    """
    job = rules.job
    learner, liveness = Learner(training, model), Liveness()
    contributions = ContributionMaker(training, learner, rules.num_parameters, worker_map(executor))
    member = Member(training, address.edge, contributions, TrainState({}, {}, job, model.division))
    group_log = GroupLog(log, address, backend=learner.backend)
    publisher = CheckpointPublisher(log, topics.checkpoints)
    follower = Follower(
        group_log,
        rules,
        group_step.fold_of(training),
        member,
        checkpointing,
        publisher,
        Recovery(log, topics, group_log, publisher, first_deadline_s),
        health,
        liveness,
    )
    steps = StepRunner(training, follower, contributions, epochs, liveness, executor, first_deadline_s, min_deadline_s)
    return GroupTrainer(
        training,
        learner,
        checkpointing,
        epochs,
        planner,
        follower,
        steps,
        liveness,
        lanes,
        health,
        job=job,
        first_deadline_s=first_deadline_s,
        executor=executor,
    )


def servers(jobs: Sequence[Job], node: str, log: Log, timing: Timing) -> Mapping[str, ParameterServer]:
    """The parameter servers that run on `node`: one for each of its jobs that names it."""
    served = [job for job in jobs if job.server == node]
    return {f"server:{job.name}" if job.name else "server": _server(job, log, timing) for job in served}


def _server(job: Job, log: Log, timing: Timing) -> ParameterServer:
    return ParameterServer(
        log,
        group_step.rules(job, num_parameters(job.input_shape, job.training.model)),
        _topics(job),
        gradients=job.gradients_topic,
        compression=job.training.exchange.compression,
        job=job.name,
        first_deadline_s=timing.first_deadline_s,
        min_deadline_s=timing.min_deadline_s,
    )


def _topics(job: Job) -> GroupTopics:
    return GroupTopics(job.checkpoints_topic, job.train_topic, job.digest, job.members)
