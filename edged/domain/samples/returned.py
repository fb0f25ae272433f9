"""What a device may put into its record's headers to get it back with the prediction, so that it can match the two.

Covers the headers' names and bounds. Any client may set them; edged reads nothing into their content here. See also:
`times` (the other header of a device's record).
"""

from collections.abc import Iterable

ID_HEADER = "edged-sample-id"
"""The device's own name of the sample. As UTF-8 also in the prediction's JSON, for devices that see no headers."""

RESPONSE_TOPIC_HEADER = "edged-response-topic"
"""Where the device wants the prediction, as MQTT 5's Response Topic."""

CORRELATION_HEADER = "edged-correlation"
"""Bytes that are the device's alone, as MQTT 5's Correlation Data."""

MAX_VALUE_BYTES = 256
"""Of each; what is longer does not come back."""

_NAMES = (ID_HEADER, RESPONSE_TOPIC_HEADER, CORRELATION_HEADER)

Headers = Iterable[tuple[str, bytes]]


def returned(headers: Headers) -> tuple[tuple[str, bytes], ...]:
    """Those of a device's record that its prediction has, too: of each name the first, unless it is too long."""
    first: dict[str, bytes] = {}
    for name, value in headers:
        if name in _NAMES:
            first.setdefault(name, value)
    return tuple((name, first[name]) for name in _NAMES if name in first and len(first[name]) <= MAX_VALUE_BYTES)


def is_id(text: str) -> bool:
    """Whether the text can be a sample's id: it can be seen, fits into one line, and is not too long."""
    return text.isprintable() and 0 < len(text.encode(errors="replace")) <= MAX_VALUE_BYTES


def sample_id(headers: Headers) -> str:
    """The device's own name of the sample; empty without one, and where it is none."""
    value = dict(returned(headers)).get(ID_HEADER, b"")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return ""
    return text if is_id(text) else ""
