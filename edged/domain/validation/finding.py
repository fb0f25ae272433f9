"""What a rule says about a topology."""

from typing import NamedTuple


class Finding(NamedTuple):
    """Something wrong, or worth a warning, with the value at `path` ("iot[0].edge").

    `needs`: other paths whose values the rule relied on, "[]" standing for any index. When one of them could not be
    read in the first place the finding says nothing new.
    """

    path: str
    message: str
    suggestion: str = ""
    needs: tuple[str, ...] = ()
