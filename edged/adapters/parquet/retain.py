"""Retention over the sources of an archive: who forgets what, and the room that it makes on a full disk.

See also: `domain.archive.retention` (the choice), `forgetting` (of one source).
"""

import itertools
from collections.abc import Callable, Iterator

from edged.adapters.parquet.chain import Chain, Source
from edged.adapters.parquet.forgetting import Forgetting, Removed
from edged.domain.archive.retention import Choice, Chosen, Deleted, Forgotten, Limits, Spared, Step, Where, Why, choose
from edged.domain.topology import MIB
from edged.errors import StorageError
from edged.log import logger


class Retention:
    """Over the sources in `found`, and what counts of each. Raises StorageError and ArchiveUnavailable."""

    def __init__(self, now_ms: Callable[[], int], *, dry_run: bool = False, is_logged: bool = True) -> None:
        """`dry_run`: only say what would be done. `is_logged`: not where people ask for it, and see it."""
        self._now_ms = now_ms
        self._dry_run = dry_run
        self._is_logged = is_logged and not dry_run
        self._found: dict[Where, tuple[Source, Forgetting, Chain]] = {}

    def add(self, source: Source, forgetting: Forgetting, chain: Chain) -> None:
        """Look after this source, too."""
        self._found[source.stream, source.name] = source, forgetting, chain

    def keep_to(
        self, limits: Limits, is_ours: Callable[[str], bool], grace_ms: int, *, is_certain: bool
    ) -> Iterator[Step]:
        """Of one stream's sources: forget what is beyond the limits, delete what was forgotten before the grace."""
        num_bytes = sum(forgetting.num_bytes(chain) for _, forgetting, chain in self._found.values())
        choice = self._choose(limits, num_bytes, "size", is_certain=is_certain)
        ours = {where for where in self._found if is_ours(where[1])}
        for where, chosen in choice.chosen.items():
            if where in ours:
                yield from self._forget(where, chosen)
        for stream in {stream for stream, _ in self._found}:
            if choice.doubt:
                yield Spared(stream, "", choice.doubt)
            if choice.excess:
                size = f"{choice.excess / MIB:,.1f} MiB beyond its limit"
                yield Spared(stream, "", f"{size} are kept: each source's newest file stays, so that it can go on")
        for where in sorted(ours):
            yield from self._delete(where, self._now_ms() - grace_ms)

    def make_room(self, num_bytes: int) -> Iterator[Step]:
        """Delete at least as much, at once, if so much may go: what counts no more first, then the oldest."""
        for where, (_, forgetting, chain) in self._found.items():
            replaced = self._deleted(where, forgetting.delete_replaced(chain))
            for step in itertools.chain(self._delete(where, self._now_ms()), replaced):
                num_bytes -= step.num_bytes if isinstance(step, Deleted) else 0
                yield step
        for where, chosen in self._choose(Limits(size=0), num_bytes, "full", is_certain=False).chosen.items():
            yield from self._forget(where, chosen)
            yield from self._delete(where, self._now_ms())

    def _choose(self, limits: Limits, num_bytes: int, why: Why, *, is_certain: bool) -> Choice:
        tail_ms = self._now_ms() if self._dry_run else None  # else it has been indexed by now
        oldest = {where: forgetting.files(chain, tail_ms) for where, (_, forgetting, chain) in self._found.items()}
        return choose(oldest, limits, num_bytes, self._now_ms(), is_certain=is_certain, why=why)

    def _forget(self, where: Where, chosen: Chosen) -> Iterator[Forgotten]:
        source, forgetting, chain = self._found[where]
        if self._dry_run or forgetting.raise_floor(chosen.first, self._now_ms()):
            forgotten = Forgotten(*where, chosen, source.since_ms(chain, chosen.first))
            if self._is_logged:
                _tell(forgotten)
            yield forgotten

    def _delete(self, where: Where, before_ms: int) -> Iterator[Deleted | Spared]:
        return self._deleted(where, self._found[where][1].delete(before_ms, dry_run=self._dry_run))

    def _deleted(self, where: Where, removed: Iterator[Removed]) -> Iterator[Deleted | Spared]:
        try:
            for each in removed:
                if self._is_logged:
                    logger().info(
                        "archive.deleted", stream=where[0], source=where[1], files=each.files, bytes=each.num_bytes
                    )
                yield Deleted(*where, *each)
        except StorageError as error:  # of this source alone
            yield Spared(*where, str(error))


def _tell(forgotten: Forgotten) -> None:
    what = forgotten.what
    oldest = {} if forgotten.oldest_ms is None else {"oldest_ms": forgotten.oldest_ms}
    log = logger().warning if what.why == "full" else logger().info  # then nobody had asked for it
    log(
        "archive.forgotten",
        stream=forgotten.stream,
        source=forgotten.source,
        why=what.why,
        samples=what.samples,
        files=what.files,
        bytes=what.num_bytes,
        first_offset=what.first,
        **oldest,
    )
