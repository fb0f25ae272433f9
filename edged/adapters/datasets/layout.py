"""What the paths of a folder's images say: which split they are of, and which class.

Knows names only. The layouts are those of torchvision's ImageFolder, Keras, Roboflow, Kaggle and ImageNet: a folder per
class, below folders of splits or not, with any folders below a class; or no classes at all.
"""

from collections.abc import Iterable, Mapping

from edged.domain.text import normal_form
from edged.ports import HELD_OUT, Omissions

ALL = "all"
"""The one split of a data set that is not divided."""

TRAIN = "train"
_SPLIT_OF: Mapping[str, str] = {
    "train": TRAIN, "training": TRAIN, "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip
"""A split by the names of its folder, in lower case."""

Layout = dict[str, dict[str, str | None]]
"""For each split, the label of each file's name; None: no class. Splits and names are in order."""


def layout(names: Iterable[str], omissions: Omissions) -> Layout:
    """Sort images into splits and classes by their paths below the data set's folder; `omissions` gets the others.

    Without a folder of a training split, what lies beside those of other splits is the training split.
    """
    by_split = _by_split(sorted(names), omissions)
    splits = {split: _labelled(of_split, omissions) for split, of_split in by_split.items()}
    trained = set(splits.get(TRAIN, {}).values()) - {None}
    for split in HELD_OUT:
        if trained and split in splits and not trained & set(splits[split].values()):
            for name in splits.pop(split):
                omissions.add("unlabelled_split", name)
    return {split: splits[split] for split in (TRAIN, *HELD_OUT, ALL) if splits.get(split)}


def _by_split(names: list[str], omissions: Omissions) -> dict[str, dict[str, str]]:
    """For each split, the path below the split's folder of each name."""
    by_split: dict[str, dict[str, str]] = {}
    beside: dict[str, str] = {}
    for name in names:
        first, _, rest = name.partition("/")
        split = _SPLIT_OF.get(first.lower()) if rest else None
        if split is None:
            beside[name] = name
        else:
            by_split.setdefault(split, {})[name] = rest
    if not by_split:
        return {ALL: beside}
    if TRAIN not in by_split and any("/" in name for name in beside):
        by_split[TRAIN], beside = beside, {}
    for name in beside:
        omissions.add("beside_splits", name)
    return by_split


def _labelled(of_split: Mapping[str, str], omissions: Omissions) -> dict[str, str | None]:
    """The label of each name: the first folder of its path. Files in no folder count where there are no classes."""
    if not any("/" in path for path in of_split.values()):
        return dict.fromkeys(of_split)
    labels: dict[str, str | None] = {}
    for name, path in of_split.items():
        folder, _, rest = path.partition("/")
        if rest:
            labels[name] = normal_form(folder)
        else:
            omissions.add("no_class", name)
    return labels
