"""A sample's two times: when its device took it, by the device's clock, and when it arrived, by the broker's.

Covers the header that carries the first, and what a latency is. The arrival is the record's own time: topics that edged
makes have the broker's. Unix time in milliseconds throughout.
"""

from collections.abc import Iterable

SAMPLED_HEADER = "edged-sampled-ms"
"""Header of a device's record: when the sample was taken, in decimal digits. Any client may set it."""

UNKNOWN_MS = -1
"""The time of a record to which neither its writer nor its broker gave one, as in Kafka."""

DAY_MS = 86_400_000

_MAX_DIGITS = 18
MAX_SAMPLED_MS = 10**_MAX_DIGITS - 1
"""Of the header: what is later is read by nobody."""


def sampled_header(sampled_ms: int) -> tuple[str, bytes]:
    """The header for a time from 1970 until MAX_SAMPLED_MS."""
    return SAMPLED_HEADER, str(sampled_ms).encode()


def sampled_ms(headers: Iterable[tuple[str, bytes]]) -> int | None:
    """When the device says that it took the sample; None if it does not say, or not as a whole number."""
    value = given(headers)
    return int(value) if value is not None and value.isdigit() and len(value) <= _MAX_DIGITS else None


def given(headers: Iterable[tuple[str, bytes]]) -> bytes | None:
    """What the device says of it, a time or not; None if it says nothing."""
    return next((value for name, value in headers if name == SAMPLED_HEADER), None)


def latency_ms(arrived_ms: int, sampled_ms: int | None, now_ms: float) -> float | None:
    """From the arrival until now; from when it was sampled if the arrival is unknown.

    None for what only wrong clocks give: below zero or above a day.
    """
    began_ms = sampled_ms if arrived_ms < 0 else arrived_ms
    if began_ms is None or not 0 <= now_ms - began_ms <= DAY_MS:
        return None
    return now_ms - began_ms
