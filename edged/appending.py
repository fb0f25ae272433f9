"""Appends records that may be too large for their topic, without the others suffering.

For services and devices. See also: `ports.Log.append`, which takes all or waits.
"""

from collections.abc import Sequence

from edged.errors import RecordTooLarge
from edged.ports import Log, Message


async def append_what_fits(log: Log, messages: Sequence[Message]) -> dict[int, RecordTooLarge]:
    """Write the messages of one partition in order, but for those that their topic does not take.

    Returns why not, by their index, once all others are acknowledged. Cancelled: each may or may not be in the log.
    """
    refused: dict[int, RecordTooLarge] = {}
    pending = list(enumerate(messages))
    while pending:
        try:
            await log.append([message for _index, message in pending], refuse_too_large=True)
        except RecordTooLarge as error:
            index, _message = pending.pop(error.index)
            refused[index] = error
            del pending[: len(error.written)]
        else:
            break
    return refused
