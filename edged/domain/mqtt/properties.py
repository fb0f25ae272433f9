"""Reads a sample's label, id and times from a packet's topic and user properties, as key and headers of its record.

The record is written as it came: ingest decides whether it is a sample, as for any other device's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from edged.domain.counted import counted
from edged.domain.mqtt.identity import WRONG_ID
from edged.domain.mqtt.topics import SampleTopic
from edged.domain.samples.returned import (
    CORRELATION_HEADER,
    ID_HEADER,
    MAX_VALUE_BYTES,
    RESPONSE_TOPIC_HEADER,
    is_id,
)
from edged.domain.samples.times import SAMPLED_HEADER
from edged.errors import RejectedRecord

LABEL, ID, SAMPLED_MS, RECEIPT = "label", "id", "sampled_ms", "receipt"
"""Names of user properties. `receipt`, with any value, asks for one. Others are ignored."""

DOUBLE_HEADER = "edged-double"
"""Header of a record that may be in its topic twice: a broker resent a packet without an id after a process ended."""

WRONG_PROPERTY = "wrong_property"
"""The reason for which a packet's properties are refused: one of `domain.samples.sample.REASONS`."""

MAX_PROPERTIES = 16
"""User properties of one packet."""

_MAX_NAME_BYTES = 64
_HEADERS = {ID: ID_HEADER, SAMPLED_MS: SAMPLED_HEADER}

UserProperties = Sequence[tuple[str, str]]


class Described(NamedTuple):
    """A sample's label, headers and id, the latter empty without one. `key`: None for no label."""

    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    sample_id: str
    wants_receipt: bool


def described(topic: SampleTopic, user: UserProperties, response_topic: str, correlation: bytes) -> Described:
    """Read the packet.

    Raises RejectedRecord: wrong_property for what is too long, or given twice with two values; wrong_id for what is no
    id of any device, see `samples.returned`.
    """
    given = _checked(user)
    label = _one(LABEL, topic.label, given.get(LABEL))
    sample_id = _one(ID, topic.sample_id, given.get(ID))
    if sample_id and not is_id(sample_id):
        raise RejectedRecord(WRONG_ID, "the id has a character that cannot be seen, such as a line break or a tab")
    headers = {_HEADERS[name]: value.encode() for name, value in given.items() if name in _HEADERS}
    if sample_id is not None:
        headers[ID_HEADER] = sample_id.encode()
    if response_topic:
        headers[RESPONSE_TOPIC_HEADER] = _bounded("the response topic", response_topic.encode())
    if correlation:
        headers[CORRELATION_HEADER] = _bounded("the correlation data", correlation)
    key = None if not label else label.encode()
    return Described(key, tuple(headers.items()), sample_id or "", RECEIPT in given)


def wants_receipt(user: UserProperties) -> bool:
    """Whether the packet asks for one."""
    return any(name == RECEIPT for name, _value in user)


def _checked(user: UserProperties) -> dict[str, str]:
    if len(user) > MAX_PROPERTIES:
        raise RejectedRecord(WRONG_PROPERTY, f"{counted(len(user), 'user property')}; at most {MAX_PROPERTIES}")
    given: dict[str, str] = {}
    for name, value in user:
        if len(name.encode()) > _MAX_NAME_BYTES:
            raise RejectedRecord(WRONG_PROPERTY, f"a user property's name has more than {_MAX_NAME_BYTES} bytes")
        _bounded(f"the user property {name}", value.encode())
        if given.setdefault(name, value) != value and name in {LABEL, ID}:
            raise RejectedRecord(WRONG_PROPERTY, f"the user property {name} is there twice, with two values")
    return given


def _one(name: str, by_topic: str | None, by_property: str | None) -> str | None:
    if by_topic is not None and by_property is not None and by_topic != by_property:
        raise RejectedRecord(WRONG_PROPERTY, f"the topic has another {name} than the user property {name}")
    return by_property if by_topic is None else by_topic


def _bounded(what: str, value: bytes) -> bytes:
    if len(value) > MAX_VALUE_BYTES:
        raise RejectedRecord(WRONG_PROPERTY, f"{what} has {len(value)} bytes; at most {MAX_VALUE_BYTES}")
    return value
