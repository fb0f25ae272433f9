"""Names of formats with their version, such as "pack/2", and the three answers to what a file or a record says it is.

What is of the known version is read. What another version of edged may have written is worth keeping: AnotherVersion.
Anything else is damage, or nobody's: FormatError. A format keeps its name, and where that stands, through all versions.
"""

import re

from edged.errors import AnotherVersion, FormatError

_NUMBER = re.compile(r"\d{1,4}")


def check(found: object, *known: str) -> str:
    """`found`, which is one of the versions in `known`, all of one format.

    Raises AnotherVersion for another version of this format, FormatError for anything else.
    """
    if isinstance(found, str) and found in known:
        return found
    wanted = " or ".join(known)
    name, _, _ = known[0].partition("/")
    if isinstance(found, str) and found.startswith(f"{name}/") and _NUMBER.fullmatch(found.removeprefix(f"{name}/")):
        raise AnotherVersion(f"not {wanted} but {found!r}, of another version of edged")
    raise FormatError(f"not {wanted} but {found!r:.40}")
