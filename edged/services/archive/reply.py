"""A request of an edge while it is served: its turns, and what was sent of its reply."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edged.domain.archive.reply_builder import ReplyPart
from edged.domain.archive.snapshot import BlockRef
from edged.domain.place import Place
from edged.ports import TopicPartition

PARTS_PER_TURN = 8
"""About 4 MiB; then it is the next edge's turn."""
BLOCKS_PER_TURN = 256
"""Looked for; it is the next edge's turn also when none of them was there."""
TURN_S = 0.5
"""The same when a slow storage took as long, or, with an edge's link, the sending."""

_FIRST_BLOCKS = 8
"""Of a reply, before their size is known."""


@dataclass
class _Turn:
    clock: Callable[[], float]
    ends_s: float
    first_block: int
    parts: int = 0


@dataclass
class Reply:
    """A request being served: its partition and place in the log, what is left of it, and totals of what was sent."""

    request: str
    edge: str
    stream: str
    partition: TopicPartition
    place: Place
    messages: Iterator[ReplyPart | None]
    """Made lazily, in a worker thread; None where a turn ends."""
    blocks: int = 0
    """Looked for."""
    num_absent: int = 0
    first_absent: BlockRef | None = None
    serve_s: float = 0.0
    turns: int = 0
    parts: int = 0
    samples: int = 0
    missing: int = 0
    num_bytes: int = 0
    done: bool = False
    _made: int = 0
    _turn: "_Turn" = field(default_factory=lambda: _Turn(float, 0.0, 0))

    def turn(self, clock: Callable[[], float]) -> Iterator[ReplyPart]:
        """The parts of one turn; `done` when they are the last."""
        self._turn = _Turn(clock, clock() + TURN_S, self.blocks)
        for part in self.messages:
            if part is None:
                return
            self._made += 1
            self._turn.parts += 1
            yield part
        self.done = True

    def turn_is_over(self) -> bool:
        """Whether it is the next edge's turn."""
        turn = self._turn
        return (
            turn.parts >= PARTS_PER_TURN
            or self.blocks - turn.first_block >= BLOCKS_PER_TURN
            or turn.clock() >= turn.ends_s
        )

    def blocks_to_come(self) -> int:
        """How many more blocks the turn will need, about, by those before: one at least."""
        looked_for = self.blocks - self._turn.first_block
        by_parts = (PARTS_PER_TURN - self._turn.parts) * self.blocks // max(self._made, 1)
        return max(1, min(by_parts or _FIRST_BLOCKS, BLOCKS_PER_TURN - looked_for))

    def sent(self, part: ReplyPart) -> None:
        self.parts += 1
        self.samples += part.samples
        self.missing += part.missing
        self.num_bytes += len(part.message)
