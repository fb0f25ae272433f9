"""What the archive and the topics hold after a run, read from there and nowhere else."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from edged.app.objects import open_archive
from edged.cli.prompt_log import PromptLog, prompt_log
from edged.domain.archive.snapshot import TEST_SOURCE, TRAIN_SOURCE
from edged.domain.samples import prediction
from edged.domain.samples.prediction import Prediction
from edged.domain.samples.sample import Sample
from edged.domain.topology import Topology
from edged.domain.topology.topics import topics
from edged.errors import LogUnavailable
from edged.ports import TopicPartition

_MAX_RECORDS = 500
_TIMEOUT_S = 10.0


@asynccontextmanager
async def observe(topology: Topology) -> AsyncIterator["Observer"]:
    """A connection to the run's topics."""
    async with prompt_log(topology.kafka, _TIMEOUT_S) as kafka:
        yield Observer(topology, kafka)


class Observer:
    """Reads the topics of one run."""

    def __init__(self, topology: Topology, kafka: PromptLog) -> None:
        self._topology = topology
        self._kafka = kafka
        self.log = kafka.log

    async def reach(self) -> None:
        """Raise LogUnavailable unless the broker answers within seconds."""
        await self._kafka.answer(self.log.watermarks([]))

    async def predictions(self, edge: str, published: int = 0) -> list[Prediction]:
        """All predictions of the edge; waits until each of `published` samples has one or is a dead letter."""
        partition = TopicPartition(self._topology.predictions_topic(edge))
        found: list[Prediction] = []
        async with self.log.reader({partition: 0}) as reader:
            while (
                reader.position(partition) < (await self.log.watermarks([partition]))[partition].stable
                or len(found) + await self.num_dead_letters([edge]) < published
            ):
                records = await reader.poll(max_records=_MAX_RECORDS, timeout_s=1.0)
                found += [prediction.decode(record.value) for record in records]
        return found

    async def delete_topics(self) -> None:
        """Delete the run's topics from a broker that outlives it. Raises LogUnavailable as `reach` does."""
        try:
            await self._kafka.answer(self.log.delete([topic.name for topic in topics(self._topology)]))
        except LogUnavailable as error:
            raise LogUnavailable(f"Kafka does not answer: topics {self._topology.site}.* may be left there") from error

    async def num_dead_letters(self, edges: Iterable[str]) -> int:
        """Dead letters of these edges."""
        topics = [TopicPartition(self._topology.dead_letters_topic(edge)) for edge in edges]
        return sum(marks.high - marks.low for marks in (await self.log.watermarks(topics)).values())


def archived_samples(topology: Topology) -> Iterator[Sample]:
    """Every sample that came from a device, as it lies in the archive's files."""
    store = open_archive(topology)
    for stream in topology.streams:
        snapshot = store.snapshot(stream.name)
        refs = [snapshot.ref(block) for block in range(snapshot.num_blocks)]
        live = [ref for ref in refs if not ref.source.startswith((TRAIN_SOURCE, TEST_SOURCE))]
        for _, pack in store.read(stream.name, live):
            yield from pack.samples
