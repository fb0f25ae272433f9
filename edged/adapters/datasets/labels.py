"""Whether the labels of a data set are those of a stream: which are not, of how many items, and what to do about it.

Looks at labels alone, and at no item. See also: `transcode` (shapes and images).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edged.domain.counted import counted
from edged.domain.suggest import did_you_mean
from edged.domain.text import shown
from edged.domain.topology import Stream
from edged.errors import FormatError
from edged.ports import Dataset

_MAX_LISTED = 50
"""Labels in a message."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """The number of items with each label, None for those without one, and what the first of each is called."""

    of: Counter[str | None] = field(default_factory=Counter)
    first: dict[str | None, str] = field(default_factory=dict)

    @property
    def unlabelled(self) -> int:
        return self.of[None]

    @property
    def labelled(self) -> int:
        return self.of.total() - self.of[None]


def count_labels(dataset: Dataset, places: Iterable[tuple[str, int]]) -> LabelCounts:
    """The labels of these items, by split and index."""
    counts = LabelCounts()
    for split, index in places:
        label = dataset.label(split, index)
        counts.of[label] += 1
        if label not in counts.first:
            counts.first[label] = dataset.item_name(split, index)
    return counts


def check_labels(dataset: Dataset, stream: Stream, counts: LabelCounts, *, otherwise: str = "") -> None:
    """Raise FormatError, which names each label that the stream does not have. `otherwise`: what else may be done."""
    foreign = [label for label in counts.of if label is not None and label not in stream.labels]
    if foreign:
        raise FormatError("\n  ".join(_foreign(dataset, stream, counts, sorted(foreign), otherwise)))


def label_warning(dataset: Dataset, stream: Stream, counts: LabelCounts) -> str:
    """Of items that have no label where the stream has some, or one where it has none; empty: there are no such."""
    name, total = stream.name, counted(counts.of.total(), "item")
    if stream.labels and counts.unlabelled:
        return (
            f"{dataset.name} has {counts.unlabelled:,} of {total} without a label, while stream {name} has labels\n"
            "  no classifier is trained on them: write their labels where they are read from"
            f" ({dataset.label_place}), and import under a new --name"
        )
    if not stream.labels and counts.labelled:
        return (
            f"{dataset.name} has {counts.labelled:,} of {total} with a label, while stream {name} has no labels\n"
            f"  they are archived, and not learnt before they are listed in streams.{name}.labels of the topology"
        )
    return ""


def _foreign(
    dataset: Dataset, stream: Stream, counts: LabelCounts, foreign: list[str], otherwise: str
) -> Iterator[str]:
    yield f"{dataset.name} has {counted(len(foreign), 'label')} that stream {stream.name} does not have"
    for label in foreign[:_MAX_LISTED]:
        hint = did_you_mean(label, stream.labels)
        first = shown(counts.first[label])
        yield f'"{shown(label)}": {counted(counts.of[label], "item")}, first {first}' + (f" ({hint})" if hint else "")
    if len(foreign) > _MAX_LISTED:
        yield f"and {counted(len(foreign) - _MAX_LISTED, 'more label')}"
    known = ", ".join(map(shown, stream.labels[:_MAX_LISTED])) + (", …" if len(stream.labels) > _MAX_LISTED else "")
    yield f"the stream has {known or 'no labels'}"
    yield f"correct {dataset.label_place}, or add labels to streams.{stream.name}.labels of the topology{otherwise}"
