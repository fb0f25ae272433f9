"""The result of a rule."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A problem, or a warning, about the value at `path` ("iot[0].edge").

    `needs`: other paths whose values the rule relies on, with "[]" for any index. If one of them could not be read, the
    finding is only a consequence of that.
    """

    path: str
    message: str
    suggestion: str = ""
    needs: tuple[str, ...] = ()
