"""Replies of the archive and packs, encoded sample by sample: what the columns' way has to give byte by byte."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from edged.domain import place as places
from edged.domain.archive.protocol import MAX_PART_BYTES, SamplesRequest
from edged.domain.archive.reply_builder import block_reads
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples import border
from edged.domain.samples.border import Refused
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import CODECS, Sample
from edged.domain.topology import Stream
from edged.errors import RejectedRecord

_DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64"}


def encoded(pack: Pack) -> bytes:
    """As `pack.encode`."""
    samples = pack.samples
    devices = sorted({each.device for each in samples})
    labels = sorted({each.label for each in samples if each.label is not None})
    incarnations = sorted({each.incarnation for each in samples})
    numbers, device_numbers, incarnation_numbers = map(_numbers, (labels, devices, incarnations))
    cursors = {key: places.to_json(place) for key, place in sorted(pack.cursors.items())}
    return _blob(
        {
            "payload": np.frombuffer(b"".join(each.payload for each in samples), np.uint8),
            "end": np.cumsum([len(each.payload) for each in samples], dtype=np.int64),
            "label": np.array([numbers[each.label] for each in samples], np.int32),
            "device": np.array([device_numbers[each.device] for each in samples], np.int32),
            "partition": np.array([each.partition for each in samples], np.int32),
            "incarnation": np.array([incarnation_numbers[each.incarnation] for each in samples], np.int32),
            "offset": np.array([each.offset for each in samples], np.int64),
            "arrived_ms": np.array([each.arrived_ms for each in samples], np.int64),
            "sampled_ms": np.array([-1 if each.sampled_ms is None else each.sampled_ms for each in samples], np.int64),
            "codec": np.array([CODECS.index(each.codec) for each in samples], np.uint8),
        },
        {
            "edged": "pack/2",
            "stream": pack.stream,
            "devices": json.dumps(devices),
            "labels": json.dumps(labels),
            "incarnations": json.dumps(incarnations),
            "cursors": json.dumps(cursors),
        },
    )


def reply(
    asked: SamplesRequest, packs: Mapping[BlockRef, Pack | None], stream: Stream
) -> tuple[list[bytes], list[Refused]]:
    """The messages that answer the request, and what the border leaves out of them."""
    messages: list[bytes] = []
    refused: list[Refused] = []
    samples: list[tuple[int, Sample]] = []
    missing: list[int] = []
    filled = 0

    def message(*, last: bool) -> None:
        messages.append(_part(asked.request, len(messages), samples, missing, last=last))
        samples.clear()
        missing.clear()

    for read in block_reads(asked):
        pack = packs[read.ref]
        for row, position in zip(read.rows.tolist(), read.positions.tolist(), strict=True):
            sample = None if pack is None or row >= len(pack.samples) else pack.samples[row]
            if sample is not None and (reason := _refused(row, sample, stream)):
                refused.append(reason)
                sample = None
            size = 8 if sample is None else 24 + len(sample.payload)
            if filled and filled + size > MAX_PART_BYTES:
                message(last=False)
                filled = 0
            filled += size
            if sample is None:
                missing.append(position)
            else:
                samples.append((position, sample))
    message(last=True)
    return messages, refused


def _refused(row: int, sample: Sample, stream: Stream) -> Refused | None:
    try:
        border.check_sample(sample, stream)
    except RejectedRecord as error:
        return Refused(row, sample.device[:64], sample.partition, sample.offset, error.reason, error.detail)
    return None


def _part(request: str, part: int, samples: list[tuple[int, Sample]], missing: list[int], *, last: bool) -> bytes:
    labels = sorted({each.label for _, each in samples if each.label is not None})
    codecs = sorted({each.codec for _, each in samples})
    numbers = _numbers(labels)
    return _blob(
        {
            "position": np.array([position for position, _ in samples], np.int64),
            "missing": np.array(missing, np.int64),
            "label": np.array([numbers[each.label] for _, each in samples], np.int32),
            "codec": np.array([codecs.index(each.codec) for _, each in samples], np.int32),
            "end": np.cumsum([len(each.payload) for _, each in samples], dtype=np.int64),
            "payload": np.frombuffer(b"".join(each.payload for _, each in samples), np.uint8),
        },
        {
            "edged": "samples_part/1",
            "request": request,
            "part": str(part),
            "last": str(int(last)),
            "labels": json.dumps(labels),
            "codecs": json.dumps(codecs),
        },
    )


def _numbers(values: list[str]) -> dict[str | None, int]:
    return {value: number for number, value in enumerate(values)} | {None: -1}


def _blob(arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype.name], "shape": [len(array)], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(array.tobytes() for array in arrays.values())])
