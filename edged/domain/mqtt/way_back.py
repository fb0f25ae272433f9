"""The way of a prediction to its device by MQTT: where to, what goes with it, and until when.

Covers one prediction. See also: `lag` (devices that have not got all of theirs).
"""

from typing import NamedTuple

from edged.domain.mqtt import topics
from edged.domain.samples.returned import (
    CORRELATION_HEADER,
    RESPONSE_TOPIC_HEADER,
    Headers,
    returned,
    sample_id,
)

LIFETIME_S = 3600
"""A prediction older than this is not sent: a device that was off for a day does not get yesterday's."""


class Addressed(NamedTuple):
    """Where a prediction goes, and what stands beside it. `sample_id`: empty without one.

    `ignored`: the response topic that the device may not have it sent to; empty when there is none.
    """

    topic: str
    correlation: bytes = b""
    sample_id: str = ""
    ignored: str = ""


def addressed(site: str, device: str, headers: Headers) -> Addressed:
    """Of a prediction for the device with these headers. A response topic counts below the device's own topic alone."""
    headers = tuple(headers)
    given = dict(returned(headers))
    own = topics.predictions_topic(site, device)
    wanted_bytes = given.get(RESPONSE_TOPIC_HEADER, b"")
    wanted = wanted_bytes.decode(errors="replace")
    is_allowed = wanted.encode() == wanted_bytes and topics.may_answer_to(site, device, wanted)
    return Addressed(
        topic=wanted if is_allowed else own,
        correlation=given.get(CORRELATION_HEADER, b""),
        sample_id=sample_id(headers),
        ignored="" if is_allowed else wanted,
    )


def remaining_s(published_ms: int, now_ms: int) -> int | None:
    """For how long the broker shall keep it, in whole seconds, at least one; None: it is too old to be sent.

    A prediction from the future, by the clocks of Kafka and this edge, or of an unknown time, is a new one.
    """
    age_ms = max(0, now_ms - published_ms) if published_ms >= 0 else 0
    left_ms = LIFETIME_S * 1000 - age_ms
    return max(1, left_ms // 1000) if left_ms > 0 else None
