"""Archives and packs for tests: plain packs, and any that the format allows."""

from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from edged.domain.archive.snapshot import BlockRef
from edged.domain.place import Place
from edged.domain.samples.border import Border
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import CODECS, Sample
from edged.domain.topology import Stream

if TYPE_CHECKING:  # Parquet is imported when an archive is opened: the domain's tests run where it cannot be
    from edged.adapters.parquet.store import ParquetStore

STREAM = Stream("fashion", (48,), "uint8", ("boot", "bag"))
"""What the samples here are of."""

PATIENT_S = 600.0
"""Deadline of calls that nothing keeps from ending: the machine may have other things to do."""

BORDER = Border({STREAM.name: STREAM}, {"cam-01": "pi-a", "cam-02": "pi-a", "cam-09": "pi-b"})


def open_archive(place: Path | str) -> "ParquetStore":
    """The archive in a local folder, or at its URL."""
    from edged.adapters.local import local_store  # noqa: PLC0415
    from edged.adapters.parquet.store import ParquetStore  # noqa: PLC0415

    url = place.as_uri() if isinstance(place, Path) else place
    return ParquetStore(local_store(url, "tests", PATIENT_S))


def new_archive(folder: Path, site: str = "greenhouse") -> "ParquetStore":
    """An archive in `folder`, marked as one; empty when nothing was there."""
    store = open_archive(folder)
    store.create(site)
    return store


def sample(offset: int, label: str | None = "boot", device: str = "cam-01") -> Sample:
    """A sample of STREAM with a payload of its own."""
    return Sample(
        device, 0, offset, 1000 + offset, label, "raw", (b"%s/%d" % (device.encode(), offset)).ljust(48, b"x")
    )


def pack(first: int, num_samples: int = 4, stream: str = "fashion", device: str = "cam-01") -> Pack:
    """`num_samples` samples of one device, from its offset `first` on, and the cursor after them."""
    samples = tuple(sample(first + i, device=device) for i in range(num_samples))
    return Pack(stream, samples, {f"{device}/0": Place(first + num_samples)})


def parquet_files(folder: Path) -> list[str]:
    """The archive's files, temporary ones too, relative to its folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet*"))


def file_name(first: int) -> str:
    """The name of the file that begins there."""
    return f"{first:020d}.parquet"


def segment(folder: Path, source: str = "pi-a", number: int = 0, stream: str = "fashion") -> Path:
    """The folder of one of a source's segments."""
    return folder / stream / source / f"{number:015d}"


def read_packs(store: "ParquetStore", *offsets: int) -> list[Pack]:
    """Blocks of stream "fashion", source "pi-a"."""
    return [block for _, block in store.read("fashion", [BlockRef("pi-a", offset) for offset in offsets])]


_OFFSETS = st.integers(0, (1 << 63) - 2)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
any_places = st.tuples(_OFFSETS, _NAMES, _NAMES, st.sampled_from(["", "7:ab"])).map(lambda values: Place(*values))
"""Any place that a pack can have as a cursor."""
_SAMPLES = st.builds(
    Sample,
    device=_TEXTS,
    partition=st.integers(0, (1 << 31) - 1),
    offset=_OFFSETS,
    arrived_ms=st.integers(-1, (1 << 63) - 1),
    sampled_ms=st.none() | st.integers(0, (1 << 63) - 1),
    label=st.none() | _TEXTS,
    codec=st.sampled_from(CODECS),
    payload=st.binary(max_size=64),
    incarnation=_NAMES,
)
any_packs = st.builds(
    Pack, st.just("fashion"), st.lists(_SAMPLES, max_size=6).map(tuple), st.dictionaries(_TEXTS, any_places, max_size=3)
)
"""Packs of stream "fashion" with any content that a pack can have."""
