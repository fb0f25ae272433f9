"""What a training group consists of: a member's trainer, and the parameter server of a node."""

from collections.abc import Mapping
from concurrent.futures import Executor

from edged.domain.group import compression, gradient_log, update_log
from edged.domain.group.state import Rules
from edged.domain.nn.model import Model
from edged.domain.nn.spec import num_parameters
from edged.domain.topology import Topology, Training
from edged.domain.topology.job import job_digest
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
    topology: Topology,
    edge: str,
    log: Log,
    health: Health,
    executor: Executor,
    training: Training,
    model: Model,
    checkpointing: Checkpointing,
    epochs: EpochLoader,
    chooser: GroupPlanner,
    job: str,
) -> GroupTrainer:
    """The trainer of a job that the edges of the topology train together."""
    server, train_topic = topology.server_of(training), topology.train_topic(training)
    written = train_topic if server is None else topology.gradients_topic(training)
    edges = tuple(edge.name for edge in topology.edges)
    return GroupTrainer(
        training,
        model,
        checkpointing,
        _announcements(topology, training, log),
        log,
        health,
        GroupAddress(edge, edges, train_topic, written),
        job=job,
        epochs=epochs,
        chooser=chooser,
        fold=gradient_log.fold if server is None else update_log.fold,
        server=server or "",
        executor=executor,
    )


def servers(topology: Topology, node: str, log: Log) -> Mapping[str, ParameterServer]:
    """The parameter servers that run on `node`: one for each job that names it."""
    served = [job for job in topology.jobs if topology.server_of(job) == node]
    return {f"server:{job.name}" if job.name else "server": _server(topology, node, job, log) for job in served}


def _server(topology: Topology, node: str, training: Training, log: Log) -> ParameterServer:
    stream = topology.stream(training.stream)
    shape = training.input_shape(stream)
    assert shape is not None, "a backbone was looked up when the topology was read"
    n = num_parameters(shape, training.model)
    edges = frozenset(edge.name for edge in topology.edges)
    rules = Rules(edges, job_digest(stream, training), n, lambda blob: compression.decompress(blob, n), node)
    return ParameterServer(
        log,
        rules,
        _announcements(topology, training, log),
        gradients=topology.gradients_topic(training),
        train=topology.train_topic(training),
        compression=training.exchange.compression,
        job=training.name,
    )


def _announcements(topology: Topology, training: Training, log: Log) -> CheckpointPublisher:
    job = job_digest(topology.stream(training.stream), training)
    edges = frozenset(edge.name for edge in topology.edges)
    topics = GroupTopics(topology.checkpoints_topic(training), topology.train_topic(training), job, edges)
    return CheckpointPublisher(log, topics)
