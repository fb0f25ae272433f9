"""Names of formats with their version, such as "pack/2", and the three answers to what a file or a record says it is.

What is of the known version is read. What another version of edged may have written is worth keeping: AnotherVersion.
Anything else is damage, or nobody's: FormatError. A format keeps its name, and where that stands, through all versions.
"""

import re

from edged.errors import AnotherVersion, FormatError

_NUMBER = re.compile(r"\d{1,4}")


def check(found: object, *known: str) -> str:
    """`found`, which is one of those in `known`.

    Raises AnotherVersion for another version of one of their formats, FormatError for anything else.
    """
    if isinstance(found, str) and found in known:
        return found
    wanted = " or ".join(known)
    name, _, number = found.partition("/") if isinstance(found, str) else ("", "", "")
    if _NUMBER.fullmatch(number) and name in {each.partition("/")[0] for each in known}:
        raise AnotherVersion(f"not {wanted} but {found!r}, of another version of edged")
    raise FormatError(f"not {wanted} but {found!r:.40}")
