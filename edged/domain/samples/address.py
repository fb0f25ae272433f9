"""A sample's address as text: printed by every line that names a sample, and accepted by every command about one.

    fashion/pi-a/120/7       row 7 of block 120 of source pi-a, in the archive of stream fashion
    fashion/pi-a/120         the whole block
    fashion/@cam-01/0/4711   what device cam-01 published in its partition 0 at offset 4711

The archive's own form names one sample for ever; the device's form also names what is not archived, or not yet. No
stream, source or device has a slash in its name, and none but the device's form an "@" at its beginning.
"""

from typing import NamedTuple

from edged.errors import FormatError

_MAX = (1 << 63) - 1
_MAX_CHARACTERS = 512


class ArchivedAddress(NamedTuple):
    """A sample of the archive, or without `row` a whole block."""

    stream: str
    source: str
    offset: int
    row: int | None = None

    def __str__(self) -> str:
        row = "" if self.row is None else f"/{self.row}"
        return f"{self.stream}/{self.source}/{self.offset}{row}"


class DeviceAddress(NamedTuple):
    """A record of a device's topic."""

    stream: str
    device: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.stream}/@{self.device}/{self.partition}/{self.offset}"


SampleAddress = ArchivedAddress | DeviceAddress


def parse(text: str) -> SampleAddress:
    """The address in `text`. Raises FormatError."""
    parts = text.split("/")
    if len(text) > _MAX_CHARACTERS or len(parts) not in {3, 4} or not all(parts):
        raise _malformed(text)
    stream, owner, *numbers = parts
    if not all(number.isascii() and number.isdecimal() and len(number) < 20 for number in numbers):
        raise _malformed(text)
    values = [int(number) for number in numbers]
    if max(values) > _MAX:
        raise _malformed(text)
    if not owner.startswith("@"):
        return ArchivedAddress(stream, owner, *values)
    if len(values) != 2 or owner == "@":
        raise _malformed(text)
    return DeviceAddress(stream, owner[1:], *values)


def _malformed(text: str) -> FormatError:
    return FormatError(
        f"{text!r:.80} is no address: STREAM/SOURCE/OFFSET for a block, STREAM/SOURCE/OFFSET/ROW for a sample, "
        "STREAM/@DEVICE/PARTITION/OFFSET for a device's record"
    )
