"""Lists and maps in the text metadata of a tensor blob, as JSON, checked on the way in."""

import json
from collections.abc import Mapping

from edged.errors import FormatError


def names(metadata: Mapping[str, str], key: str) -> list[str]:
    """The list of texts under `key`. Raises FormatError."""
    values = _json(metadata, key)
    if not isinstance(values, list) or not all(isinstance(value, str) and _is_unicode(value) for value in values):
        raise FormatError(f"metadata {key!r} is not a list of texts")
    return values


def offsets(metadata: Mapping[str, str], key: str) -> dict[str, int]:
    """The map from texts to log offsets under `key`. Raises FormatError."""
    values = _json(metadata, key)
    if not isinstance(values, dict) or not all(
        _is_unicode(name) and type(value) is int and 0 <= value < 1 << 63 for name, value in values.items()
    ):
        raise FormatError(f"metadata {key!r} is not a map to offsets")
    return values


def _json(metadata: Mapping[str, str], key: str) -> object:
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise FormatError(f"metadata {key!r} is missing or not JSON") from error


def _is_unicode(text: str) -> bool:
    """JSON can spell half a surrogate pair, which no file name, key or log line can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
