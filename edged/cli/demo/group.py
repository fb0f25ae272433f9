"""A group's statistics from its log, folded again: each edge's contribution, and the proof of the weights.

From the members themselves it uses nothing but their checkpoints, which the log proves.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from edged.cli.demo.outage import Outage
from edged.cli.replay.command import prepare
from edged.domain.group import records
from edged.domain.group.records import Join, Part
from edged.domain.group.replay import Proof, ReplayEvent, StepApplied
from edged.domain.topology import Topology
from edged.errors import FormatError
from edged.ports import Log, TopicPartition
from edged.reading import read_to_end

_MAX_RECORDS = 64


@dataclass(frozen=True, slots=True)
class Contribution:
    """One edge's part in all steps. `share`: of all samples that counted. `missed`: steps closed without its gradient.

    `bytes_per_step`: of all its gradients in the log, per step that it contributed to. `weights`: SHA-256 of the
    weights in its newest checkpoint.
    """

    samples: int
    share: float
    steps: int
    missed: int
    bytes_per_step: float
    weights: str


@dataclass(frozen=True, slots=True)
class Group:
    """`weights`: SHA-256 after the log's `steps` steps; `steps_without_somebody`: closed without all edges.

    `proofs`: hashes of weights, one per epoch and one per edge's checkpoint, that were compared with the log's.
    `took_part_again`: whether a gradient of the killed edge counted after its return.
    """

    steps: int
    steps_without_somebody: int
    weights: str
    proofs: int
    proofs_failed: int
    edges: Mapping[str, Contribution]
    outage: Outage | None
    took_part_again: bool

    @property
    def is_identical(self) -> bool:
        """Whether all edges ended with the log's weights, bit for bit."""
        return not self.proofs_failed and all(each.weights == self.weights for each in self.edges.values())


async def fold(log: Log, topology: Topology, state_folders: Mapping[str, Path], outage: Outage | None) -> Group:
    """Fold the log of the topology's only job. `state_folders`: of each edge's checkpoints.

    Raises CheckpointCorrupt if an edge has none.
    """
    [job] = topology.jobs
    partition = TopicPartition(topology.train_topic(job))
    replay = prepare(topology, job, None, list(state_folders.values()))
    sums = _Sums(outage)
    sums.take(replay.begin())
    async with (
        log.reader({partition: 0}) as reader,
        aclosing(read_to_end(log, reader, partition, max_records=_MAX_RECORDS)) as reading,
    ):
        async for batch in reading:
            for record in batch:
                sums.count(record.value)
                sums.take(replay.take(record.value, record.offset))
    sums.take(replay.end())
    return sums.group(replay.step, replay.weights(), state_folders)


@dataclass(slots=True)
class _Sums:
    outage: Outage | None
    samples: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    num_bytes: Counter[str] = field(default_factory=Counter)
    members_per_step: list[int] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    has_returned: bool = False
    took_part_again: bool = False

    def count(self, blob: bytes) -> None:
        """Count the bytes of a gradient's part; notice the return of the edge that was killed."""
        try:
            record = records.decode(blob)
        except FormatError:
            return
        if isinstance(record, Part):
            self.num_bytes[record.edge] += len(blob)
        elif isinstance(record, Join) and self.outage and record.edge == self.outage.edge:
            self.has_returned |= len(self.members_per_step) >= self.outage.step

    def take(self, events: Iterable[ReplayEvent]) -> None:
        for event in events:
            match event:
                case StepApplied(contributions=contributions):
                    self.members_per_step.append(len(contributions))
                    self.samples.update({each.edge: each.count for each in contributions})
                    self.steps.update(each.edge for each in contributions)
                    self.took_part_again |= self.has_returned and any(
                        each.edge == self.outage.edge and each.count for each in contributions if self.outage
                    )
                case Proof():
                    self.proofs.append(event)
                case _:
                    pass

    def group(self, steps: int, weights: str, state_folders: Mapping[str, Path]) -> Group:
        of_checkpoint = {proof.claim.name: proof.claim.weights for proof in self.proofs}
        return Group(
            steps=steps,
            steps_without_somebody=sum(members < len(state_folders) for members in self.members_per_step),
            weights=weights,
            proofs=len(self.proofs),
            proofs_failed=sum(not proof.holds for proof in self.proofs),
            edges={
                edge: Contribution(
                    samples=self.samples[edge],
                    share=self.samples[edge] / max(self.samples.total(), 1),
                    steps=self.steps[edge],
                    missed=steps - self.steps[edge],
                    bytes_per_step=self.num_bytes[edge] / max(self.steps[edge], 1),
                    weights=of_checkpoint[str(folder)],
                )
                for edge, folder in state_folders.items()
            },
            outage=self.outage,
            took_part_again=self.took_part_again,
        )
