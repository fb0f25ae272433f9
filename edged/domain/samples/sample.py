"""One sample: what a device published, and its address in the archive.

See also: `codec` (payloads).
"""

from dataclasses import dataclass
from typing import NamedTuple

REASONS = (
    "empty",  # no payload
    "key_too_long",  # the label's text is longer than any label may be
    "key_not_text",  # the key is not UTF-8
    "unknown_label",  # the key is not one of the stream's labels
    "too_large",  # more bytes than a payload of this stream may have
    "wrong_length",  # raw bytes do not fill the stream's shape
    "not_finite",  # a float payload holds NaN, infinity, or a number whose square is infinite
    "denormal",  # all numbers of a float payload are below float32's smallest normal one: another byte order
    "not_an_image",  # the bytes are not of the device's codec
    "truncated",  # the image ends early or is damaged
    "too_large_for_topic",  # the topic of packs does not take even this sample alone
    "too_many_pixels",  # the image is larger than an image of this stream may be
    "wrong_topic",  # of an MQTT packet: the topic is none of a sample
    "wrong_property",  # of an MQTT packet: what stands beside the payload is too long, or says two things
    "wrong_id",  # of an MQTT packet: the id is not of the kind that its device declares
    "wrong_pack",  # of an MQTT packet of many samples: it is no pack, or not the device's
)
"""The reasons for which a record is dead-lettered: stable words, for logs and headers."""

CODECS = ("raw", "jpeg", "png")
"""In the order of their numbers in packs and cache entries."""

MAX_BYTES = 768 * 1024
"""Payload bytes in one pack, below Kafka's default message limit of 1 MiB. A larger sample is rejected."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A valid record of a device; the payload is as received.

    Its identity is (device, partition, incarnation, offset), the incarnation being the log's, see `domain.place`; "" of
    imported samples, and of those archived before edged told logs apart. `arrived_ms`, `sampled_ms`: see `times`; None
    if the device gave no time of its own.
    """

    device: str
    partition: int
    offset: int
    arrived_ms: int
    label: str | None
    codec: str
    payload: bytes
    sampled_ms: int | None = None
    incarnation: str = ""


class Address(NamedTuple):
    """A sample's place in the archive: `source` (an edge, or an import), the pack's `offset`, `row` in the pack."""

    source: str
    offset: int
    row: int
