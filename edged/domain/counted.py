"""Numbers of things in messages for people: "1 row", "2 rows", "1,000 axes"."""

_IRREGULAR = {
    "address": "addresses",
    "axis": "axes",
    "entry": "entries",
    "hash": "hashes",
    "probability": "probabilities",
}


def counted(number: int, noun: str) -> str:
    """`number` and `noun`, which is given in its singular and may have words before it: "empty file"."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The noun for any number but one."""
    before, _, last = noun.rpartition(" ")
    many = _IRREGULAR.get(last, f"{last}s")
    return f"{before} {many}" if before else many
