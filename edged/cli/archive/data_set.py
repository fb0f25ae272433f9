"""`edged archive import`: a data set into the archive, and an account of all that is in it.

See also: `services.archive.importer` (what goes where), `adapters.datasets` (what is read, and how).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from edged.cli.arguments import add_data_set_options, fraction, whole_number
from edged.cli.problems import complain
from edged.domain.counted import counted
from edged.domain.text import shown
from edged.domain.topology import Stream
from edged.errors import FormatError

if TYPE_CHECKING:  # Parquet and images are imported when they are needed
    from edged.ports import ArchiveStore, Dataset, LeftOut
    from edged.services.archive.importer import Imported


def add_options(parser: argparse.ArgumentParser) -> None:
    """The action's own arguments."""
    add_data_set_options(parser)
    parser.add_argument("--split", default="all", metavar="NAME", help="train, val, test or all (all)")
    parser.add_argument("--name", metavar="NAME", help="what the archive calls it (the data set's own name)")
    parser.add_argument("--limit", type=whole_number(), metavar="N", help="at most N samples for each source")
    parser.add_argument(
        "--seed", type=whole_number(), default=0, metavar="N", help="of the order in which samples lie (0)"
    )
    parser.add_argument(
        "--test-fraction",
        type=fraction,
        default=0.1,
        metavar="F",
        help="share held out for testing when the data set has no test or val split (0.1)",
    )
    parser.add_argument("--json", action="store_true", help="the account as JSON")


def open_data_set(stream: Stream, args: argparse.Namespace) -> "Dataset":
    """What `--from` names, to be imported into `stream`. Raises FormatError, StorageError."""
    from edged.adapters.datasets.registry import open_dataset  # noqa: PLC0415

    with Bar(None, "listing", "files") as on_listed:
        return open_dataset(
            args.spec, header=args.header, labels=stream.labels, follow_links=args.follow_links, on_listed=on_listed
        )


def import_dataset(store: "ArchiveStore", stream: Stream, dataset: "Dataset", args: argparse.Namespace) -> int:
    """Import the opened data set by the options in `args`. Raises FormatError when it does not fit, StorageError."""
    from edged.adapters.datasets.labels import check_labels, count_labels, label_warning  # noqa: PLC0415
    from edged.adapters.datasets.transcode import ArchiveForm, check_images  # noqa: PLC0415
    from edged.adapters.images import PillowDecoder  # noqa: PLC0415
    from edged.ports import Omissions  # noqa: PLC0415
    from edged.services.archive import importer  # noqa: PLC0415

    portions = importer.portions(
        dataset, args.name or dataset.name, args.split, args.test_fraction, args.seed, args.limit
    )
    counts = count_labels(dataset, chain.from_iterable(portion.places(dataset) for portion in portions))
    _raise_all(
        lambda: check_labels(dataset, stream, counts) if stream.labels else None,  # what has none may get some
        lambda: importer.check(dataset, stream),
        lambda: check_images(dataset, stream),
    )
    if warning := label_warning(dataset, stream, counts):
        complain("edged archive", f"warning: {warning}")
    form, omissions = ArchiveForm(stream, PillowDecoder()), Omissions(dataset.left_out)
    sources: list[Imported] = []
    for portion in portions:
        place = f"{stream.name}/{portion.source}"
        with Bar(len(portion.order), place, "samples") as on_progress:
            imported = importer.import_portion(
                store, stream, dataset, portion, on_progress, form=form, omissions=omissions
            )
        sources.append(imported)
        if not args.json:
            print(shown(f"{place}: {_imported_text(imported)}"))
    left_out = omissions.listed()
    if not any(source.samples for source in sources):
        raise FormatError("\n  left out: ".join([f"{dataset.name}: there is no sample to import", *map(str, left_out)]))
    num_items = sum(dataset.count(split) for split in dataset.splits)
    not_asked_for = num_items - sum(len(portion.order) for portion in portions)
    account = _Account(dataset, sources, left_out, not_asked_for, counts.labelled, counts.unlabelled)
    print(json.dumps(account.as_json(stream), indent=2) if args.json else "\n".join(map(shown, account.lines())))
    return 0


def _raise_all(*checks: Callable[[], object]) -> None:
    """Raise one FormatError of all that the checks raise."""
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except FormatError as error:
            problems.append(str(error))
    if problems:
        raise FormatError("\n".join(problems))


def _imported_text(imported: "Imported") -> str:
    if imported.new:
        return f"{counted(imported.new, 'sample')} imported"
    return f"complete with {counted(imported.samples, 'sample')}"


class _Account(NamedTuple):
    """Each item of the data set once: taken into an archive's source, left out, or not asked for.

    `labelled` and `unlabelled`: of those that were asked for, also where they were left out.
    """

    dataset: "Dataset"
    sources: "Sequence[Imported]"
    left_out: "Sequence[LeftOut]"
    not_asked_for: int
    labelled: int
    unlabelled: int

    def splits(self) -> dict[str, int]:
        """The number of items that are in the archive, of each split."""
        return {split: sum(each.of_split.get(split, 0) for each in self.sources) for split in self.dataset.splits}

    def as_json(self, stream: Stream) -> dict[str, object]:
        return {
            "dataset": self.dataset.name,
            "stream": stream.name,
            "splits": self.splits(),
            "not_asked_for": self.not_asked_for,
            "labelled": self.labelled,
            "unlabelled": self.unlabelled,
            "sources": [{"source": each.source, "new": each.new, "samples": each.samples} for each in self.sources],
            "left_out": [
                {"reason": each.reason, "count": each.count, "first": list(each.first)} for each in self.left_out
            ],
        }

    def lines(self) -> Iterator[str]:
        """What was left out, and the sum."""
        for each in self.left_out:
            yield f"left out: {each}"
        num_left_out = sum(each.count for each in self.left_out)
        splits = self.splits()
        num_items = sum(splits.values()) + num_left_out + self.not_asked_for
        taken = " and ".join(f"{count:,} of split {split}" for split, count in splits.items())
        if len(splits) == 1:
            taken = f"{sum(splits.values()):,}"
        rest = f", {self.not_asked_for:,} not asked for (--split, --limit)" if self.not_asked_for else ""
        yield f"{self.dataset.name}: {counted(num_items, 'item')}, {taken} taken, {num_left_out:,} left out{rest}"


class Bar:
    """A progress bar when a person watches; entered, it gives the function to report to."""

    def __init__(self, total: int | None, title: str, unit: str) -> None:
        from tqdm import tqdm  # noqa: PLC0415

        self._bar = tqdm(
            total=total, desc=title, unit=f" {unit}", disable=not sys.stderr.isatty(), file=sys.stderr, leave=False
        )

    def __enter__(self) -> Callable[[int], object]:
        return self._bar.update

    def __exit__(self, *_: object) -> None:
        self._bar.close()
