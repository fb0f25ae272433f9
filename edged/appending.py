"""Appends records that may be too large for their topic, without the others suffering.

For services and devices. See also: `ports.Log.append`, which takes all or waits.
"""

from collections.abc import Sequence
from typing import NamedTuple

from edged.errors import RecordTooLarge
from edged.ports import Log, Message


class Appended(NamedTuple):
    """`offsets`: of the messages that are in the log now. `refused`: why the others are not, by their index."""

    offsets: list[int]
    refused: dict[int, RecordTooLarge]


async def append_what_fits(log: Log, messages: Sequence[Message]) -> Appended:
    """Write the messages of one partition in order, but for those that their topic does not take.

    Returns once all others are acknowledged. Cancelled: each may or may not be in the log.
    """
    appended = Appended([], {})
    pending = list(enumerate(messages))
    while pending:
        try:
            appended.offsets.extend(await log.append([message for _index, message in pending], refuse_too_large=True))
        except RecordTooLarge as error:
            index, _message = pending.pop(error.index)
            appended.refused[index] = error
            appended.offsets.extend(error.written)
            del pending[: len(error.written)]
        else:
            break
    return appended
