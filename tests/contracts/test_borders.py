"""What one border of a site accepts, all after it store, send and read: from a device's record to a mini-batch.

Samples have the values at the limits of every format on the way, on either side. Each border is the real one: packs,
Parquet files, the archive's messages, an edge's window, the cache's file, mini-batches, predictions.
"""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edged.adapters.disk.sqlite_cache import MIN_BUDGET_BYTES, SqliteCache
from edged.adapters.images import PillowDecoder
from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SamplesRequest, SnapshotPart
from edged.domain.archive.reply_builder import ReplyBuilder, block_reads
from edged.domain.archive.snapshot import Snapshot
from edged.domain.cache.entry import Entry, SampleKey
from edged.domain.epochs.split import train_split
from edged.domain.place import Place
from edged.domain.samples import codec as codec_rules
from edged.domain.samples import cursors as cursor_rules
from edged.domain.samples import pack as packs
from edged.domain.samples import prediction
from edged.domain.samples.address import ArchivedAddress, parse
from edged.domain.samples.border import Border
from edged.domain.samples.columns import PackColumns
from edged.domain.samples.pack import Pack
from edged.domain.samples.prediction import Prediction
from edged.domain.samples.rules import MAGIC
from edged.domain.samples.sample import CODECS, MAX_BYTES, Sample
from edged.domain.topology import Stream
from edged.errors import RejectedRecord
from edged.services.archive.fetch import WindowFetch
from edged.services.batches.batcher import Batcher, Encoded
from tests.support.properties import examples

LONGEST_LABEL = "l" * 256
FLOATS = Stream("site", (2,), "float32", ("low", "high", LONGEST_LABEL, "猫"))
IMAGES = Stream("site", (2, 2, 1), "uint8", ("low", "high", LONGEST_LABEL, "猫"))
DEVICES = {"meter": "pi-a", "m" * 64: "pi-a", "other": "pi-b"}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (2, 2), 7).save(file, "png")
    return file.getvalue()


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def is_usable(values: tuple[float, ...]) -> bool:
    largest = max(values, key=abs)
    return all(abs(each) <= 1e18 for each in values) and (largest == 0 or abs(largest) > 1.175e-38)


numbers = st.sampled_from(
    [0.0, -0.0, 1e-45, 1.17e-38, -1.18e-38, 1e18, -1e18, 1.01e18, 3.4e38, math.inf, -math.inf, math.nan]
)
JPEG, PNG = MAGIC["jpeg"], MAGIC["png"]
payloads = st.builds(floats, numbers, numbers) | st.sampled_from(
    [
        floats(1, 2),
        b"\0\1\2\3",
        png(),
        png()[:-9],
        PNG,
        JPEG,
        b"",
        b"123",
        PNG.ljust(MAX_BYTES),
        JPEG.ljust(MAX_BYTES + 1),
    ]
)
incarnations = st.sampled_from(["", "0123456789abcdef"])
labels = st.none() | st.sampled_from([*FLOATS.labels, "unknown", "", LONGEST_LABEL + "l", "x" * 70_000])
times = st.sampled_from([-1, 0, 1_700_000_000_000, (1 << 63) - 1])
samples = st.builds(
    Sample,
    device=st.sampled_from([*DEVICES, "gone", "m" * 65, "", "a/b", "@a", ".a", "a\n", "\0"]),
    partition=st.sampled_from([0, 1, (1 << 31) - 1]),
    offset=st.sampled_from([0, 1, 1 << 62, (1 << 63) - 2, (1 << 63) - 1]),
    arrived_ms=times,
    label=labels,
    codec=st.sampled_from(CODECS),
    payload=payloads,
    sampled_ms=st.none() | times.filter(lambda each: each >= 0),
    incarnation=incarnations,
)


def good(stream: Stream) -> st.SearchStrategy[Sample]:
    """Samples within all limits, many on one of them."""
    usable = st.tuples(numbers, numbers).filter(is_usable)
    raw = usable.map(lambda each: floats(*each)) if stream is FLOATS else st.just(b"\0\1\2\3")
    return st.builds(
        lambda of, **fields: Sample(codec=of[0], payload=of[1], **fields),
        st.tuples(st.just("raw"), raw) | st.tuples(st.just("png"), st.just(png())),
        device=st.sampled_from(["meter", "m" * 64, "gone"]),
        partition=st.sampled_from([0, 1, (1 << 31) - 1]),
        offset=st.sampled_from([0, 1, 1 << 62, (1 << 63) - 2]),
        arrived_ms=times,
        label=st.none() | st.sampled_from(stream.labels),
        sampled_ms=st.none() | times.filter(lambda each: each >= 0),
        incarnation=incarnations,
    )


cursors = st.dictionaries(
    st.sampled_from(["meter/0", "other/0", "gone/7", "no cursor", "a" * 999]),
    st.tuples(st.sampled_from([0, 1, (1 << 63) - 1]), incarnations).map(lambda each: Place(*each)),
)


def fetched(store: ParquetStore, border: Border, stream: Stream) -> tuple[Snapshot, WindowFetch]:
    """Everything in the archive, as an edge gets it: by a snapshot's parts, a request and a reply."""
    sent = [protocol.encode_part(part) for part in protocol.snapshot_parts("r", store.snapshot(stream.name))]
    snapshot = protocol.join_snapshot(
        [part for part in map(protocol.decode_part, sent) if isinstance(part, SnapshotPart)]
    )
    fetch = WindowFetch(train_split(snapshot, 0).window(np.arange(snapshot.num_samples)))
    request = protocol.decode_request(
        protocol.encode_request(SamplesRequest("r", "pi-a", stream.name, *fetch.window.part(fetch.open_positions())))
    )
    assert isinstance(request, SamplesRequest)
    builder = ReplyBuilder("r", border.streams[stream.name])
    reads = block_reads(request)
    found = dict(store.read_each(stream.name, [read.ref for read in reads]))
    blocks = {ref: block for ref, block in found.items() if isinstance(block, PackColumns)}
    parts = [part for read in reads for part in builder.add(read, blocks[read.ref])] + [builder.close()]
    assert builder.take_refused() == [], "the archive holds nothing that the next border refuses"
    for part in parts:
        decoded = protocol.decode_part(part.message)
        assert isinstance(decoded, SamplesPart)
        fetch.accept(decoded, np.arange(snapshot.num_samples))
    assert fetch.is_complete
    return snapshot, fetch


@pytest.mark.parametrize("stream", [FLOATS, IMAGES], ids=["floats", "images"])
@examples(60)
@given(data=st.data())
def test_what_the_archiver_accepts_is_stored_sent_cached_and_trained_on(stream, data, tmp_path_factory):
    of_pack = st.tuples(st.lists(good(stream) | samples, max_size=5), cursors)
    sent = data.draw(st.lists(of_pack, min_size=1, max_size=3))
    border, store = Border({"site": stream}, DEVICES), ParquetStore((place := MemoryPlace()).store())
    store.create("lab")
    known: dict[str, int] = {}
    kept: list[Sample] = []
    for offset, (published, ends) in enumerate(sent):
        pack = packs.decode(packs.encode(Pack("site", tuple(published), ends)))
        sifted = border.sift(pack, "pi-a", known)
        assert len(sifted.pack.samples) + len(sifted.refused) == len(published)
        assert all(published[each.row].offset == each.offset and each.reason for each in sifted.refused)
        unique = cursor_rules.without_duplicates(sifted.pack, known)
        store.append("site", "pi-a", [(offset, unique)])
        known = cursor_rules.advance(known, unique)
        kept += unique.samples

    again = ParquetStore(place.store())
    assert list(again.verify()) == []
    assert again.ends("site") == {"pi-a": len(sent)}
    snapshot, fetch = fetched(again, border, stream)
    got = list(zip(fetch.payloads, fetch.codecs, fetch.labels, strict=True))
    assert got == [(each.payload, each.codec, each.label) for each in kept]
    block, row = snapshot.locate(np.arange(snapshot.num_samples))
    refs = [snapshot.ref(each) for each in block.tolist()]
    keys = [SampleKey(*ref, at) for ref, at in zip(refs, row.tolist(), strict=True)]
    for key, each in zip(keys, kept, strict=True):
        assert key in store.find("site", each.device, each.partition, each.offset)
        assert parse(str(ArchivedAddress("site", *key))) == ("site", *key)

    entries = {key: Entry(each.payload, each.codec, each.label) for key, each in zip(keys, kept, strict=True)}
    tier = SqliteCache(tmp_path_factory.mktemp("cache"), max(MIN_BUDGET_BYTES, 16 << 20), "lab")
    tier.put_many(entries)
    assert tier.get_many(keys) == entries
    tier.close()

    batcher = Batcher(stream, max(len(kept), 1), PillowDecoder(), needs_labels=False)
    batcher.add(
        [Encoded(entries[key].payload, entries[key].codec, entries[key].label, n) for n, key in enumerate(keys)]
    )
    batch, unusable = batcher.take(), {each.id for each in batcher.take_unusable()}
    assert np.isfinite(batch.x).all()
    assert not ((batch.x != 0) & (np.abs(batch.x) < 1.175e-38)).any(), "nothing denormal is computed with"
    assert unusable <= {n for n, each in enumerate(kept) if each.codec != "raw"}, "only an image may be damaged"
    assert sorted([*batch.ids.tolist(), *unusable]) == list(range(len(kept)))
    for each in kept:
        made = Prediction(
            each.device, each.partition, each.offset, each.arrived_ms, each.sampled_ms,
            each.label or "low", 0.5, {each.label or "low": 0.5}, 1, None, 0.5,
        )  # fmt: skip
        assert prediction.decode(prediction.encode(made)) == made


@pytest.mark.parametrize("stream", [FLOATS, IMAGES], ids=["floats", "images"])
@examples(150)
@given(
    key=st.none() | st.sampled_from([b"low", "猫".encode(), LONGEST_LABEL.encode(), b"", b"\xff", b"x" * 257]),
    payload=payloads,
    codec=st.sampled_from(CODECS),
    partition=st.sampled_from([0, (1 << 31) - 1]),
    offset=st.sampled_from([0, (1 << 63) - 2]),
    arrived_ms=times,
)
def test_what_an_edge_accepts_of_its_devices_the_archiver_accepts_too(
    stream, key, payload, codec, partition, offset, arrived_ms
):
    try:
        label = codec_rules.check_record(key, payload, stream, codec)
    except RejectedRecord:
        return
    pack = Pack("site", (Sample("meter", partition, offset, arrived_ms, label, codec, payload),), {"meter/0": Place(1)})

    received = packs.decode(packs.encode(pack))

    assert Border({"site": stream}, DEVICES).sift(received, "pi-a", {}) == (pack, ())
    foreign = replace(pack, samples=(replace(pack.samples[0], device="other"),))
    assert [each.reason for each in Border({"site": stream}, DEVICES).sift(foreign, "pi-a", {}).refused] == [
        "foreign_device"
    ]
