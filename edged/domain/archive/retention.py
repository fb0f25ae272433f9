"""What an archive is to forget: the oldest files of a stream, by age and by size, as a floor for each source.

A file is as old as the time since when an index names it, by an archive node's clock; devices' clocks are not asked.
A clock may be far off all the same. A time that cannot be is none; a file is at least as new as those before it; and
what is older than its limit by far, by the present clock, goes by people's word alone: see `choose`.
See also: `floor` (how it is kept), `adapters.parquet.forgetting` (how it is done).
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from edged.domain.counted import counted

Why = Literal["age", "size", "full"]

Where = tuple[str, str]
"""Stream and source."""

DAY_MS = 86_400_000
FIRST_MS = 1_577_836_800_000
"""2020: no file of an archive is older. A machine without a clock of its own starts in 1970."""


class Limits(NamedTuple):
    """Of one stream. `age_s`: of a file; `size`: bytes of all files; None: no limit."""

    age_s: float | None = None
    size: int | None = None


class Kept(NamedTuple):
    """A file that may be forgotten: the offset behind it, and since when an index names it."""

    next: int
    samples: int
    size: int
    since_ms: int


class Chosen(NamedTuple):
    """Of a source, what to forget: all below `first`."""

    first: int
    files: int
    samples: int
    num_bytes: int
    why: Why


class Forgotten(NamedTuple):
    """What of a source counts no more. `oldest_ms`: since when its oldest file left is there, if that is known."""

    stream: str
    source: str
    what: Chosen
    oldest_ms: int | None


class Deleted(NamedTuple):
    """Files of what was forgotten `before` this offset are gone."""

    stream: str
    source: str
    before: int
    files: int
    num_bytes: int


class Spared(NamedTuple):
    """Nothing is forgotten of the stream by age, because of the times; or of the source, which cannot be looked at."""

    stream: str
    source: str
    reason: str


Step = Forgotten | Deleted | Spared


class Choice(NamedTuple):
    """By source. `doubt`: why nothing goes by age; "" if nothing speaks against it.

    `excess`: bytes beyond the limit that stay, in the newest files of all sources.
    """

    chosen: Mapping[Where, Chosen]
    doubt: str = ""
    excess: int = 0


class _Dated(NamedTuple):
    """A file and when it came, at the earliest; `is_known`: by a time of its own."""

    dated_ms: int
    source: Where
    file: Kept
    is_known: bool


def choose(
    sources: Mapping[Where, Iterable[Kept]],
    limits: Limits,
    num_bytes: int,
    now_ms: int,
    *,
    is_certain: bool = False,
    why: Why = "size",
) -> Choice:
    """The files to forget, oldest first across all sources. `sources`: of each its files in order, but for the newest.

    `num_bytes`: of all its files. `is_certain`: people have asked for it. Otherwise nothing goes by age while a file is
    older than the limit and a half, and than the limit and a day: the limit is new, the node was away for long, or the
    clock is wrong; and a wrong clock is not to take more than half of what a limit of two days or more keeps.
    """
    excess = 0 if limits.size is None else num_bytes - limits.size
    chosen: dict[Where, Chosen] = {}
    passed: dict[Where, list[Kept]] = {}
    doubt = ""
    for dated in _oldest_first(sources, now_ms):
        is_due = limits.age_s is not None and not doubt and now_ms - dated.dated_ms >= limits.age_s * 1000
        if is_due and dated.is_known and limits.age_s is not None and not is_certain:
            doubt = _doubt(dated.dated_ms, limits.age_s, now_ms)
            is_due = not doubt
        if excess <= 0 and not is_due:
            break
        files = passed.setdefault(dated.source, [])
        files.append(dated.file)
        if excess > 0 or dated.is_known:
            excess -= sum(file.size for file in files)
            before = chosen.get(dated.source)
            chosen[dated.source] = _joined(before, files, "age" if is_due and dated.is_known else why)
            files.clear()
    return Choice(chosen, doubt, max(excess, 0))


def _oldest_first(sources: Mapping[Where, Iterable[Kept]], now_ms: int) -> Iterator[_Dated]:
    dated = [_dated(source, files, now_ms) for source, files in sorted(sources.items())]
    return heapq.merge(*dated, key=lambda each: (each.dated_ms, each.source))


def _dated(source: Where, files: Iterable[Kept], now_ms: int) -> Iterator[_Dated]:
    newest_ms = 0
    for file in files:
        is_known = FIRST_MS <= file.since_ms <= now_ms
        newest_ms = max(newest_ms, file.since_ms) if is_known else newest_ms
        yield _Dated(newest_ms, source, file, is_known)


def _doubt(oldest_ms: int, age_s: float, now_ms: int) -> str:
    limit_ms = int(age_s * 1000)
    if now_ms - oldest_ms <= max(limit_ms * 3 // 2, limit_ms + DAY_MS):
        return ""
    days = counted((now_ms - oldest_ms) // DAY_MS, "day")
    return (
        f"its oldest file is {days} old by this clock, far beyond the limit of {age_s / 86_400:g} d; "
        "if that is right, run `edged archive retain` once"
    )


def _joined(before: Chosen | None, files: list[Kept], why: Why) -> Chosen:
    num_files, samples, num_bytes = (before.files, before.samples, before.num_bytes) if before else (0, 0, 0)
    return Chosen(
        files[-1].next,
        num_files + len(files),
        samples + sum(each.samples for each in files),
        num_bytes + sum(each.size for each in files),
        why,
    )
