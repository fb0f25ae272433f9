"""A request of an edge while it is served: its turns, and what was sent of its reply."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from edged.domain.archive.snapshot import BlockRef
from edged.domain.place import Place

PARTS_PER_TURN = 8
"""About 4 MiB; then it is the next edge's turn."""
BLOCKS_PER_TURN = 256
"""Looked for; it is the next edge's turn also when none of them was there."""
TURN_S = 0.5
"""The same when a slow storage took as long, or, with an edge's link, the sending."""


class ReplyPart(NamedTuple):
    """One encoded message of a reply, with its numbers of samples and of missing ones."""

    message: bytes
    samples: int
    missing: int


@dataclass
class Reply:
    """A request being served: its place in the log, what is left of it, and totals of what was sent."""

    request: str
    edge: str
    stream: str
    place: Place
    messages: Iterator[ReplyPart | None]
    """Made lazily, in a worker thread; None for each block that was looked for."""
    num_absent: int = 0
    first_absent: BlockRef | None = None
    serve_s: float = 0.0
    turns: int = 0
    parts: int = 0
    samples: int = 0
    missing: int = 0
    num_bytes: int = 0
    done: bool = False

    def turn(self, clock: Callable[[], float]) -> Iterator[ReplyPart]:
        """The parts of one turn; `done` when they are the last."""
        ends_s, parts, blocks = clock() + TURN_S, 0, 0
        for part in self.messages:
            if part is None:
                blocks += 1
            else:
                parts += 1
                yield part
            if parts == PARTS_PER_TURN or blocks == BLOCKS_PER_TURN or clock() >= ends_s:
                return
        self.done = True

    def sent(self, part: ReplyPart) -> None:
        self.parts += 1
        self.samples += part.samples
        self.missing += part.missing
        self.num_bytes += len(part.message)
