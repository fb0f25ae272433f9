"""What packages are made for."""

from typing import NamedTuple

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Of each of Debian's architectures, the name in the tags of wheels."""
PAGE_BYTES = {"amd64": 4096, "arm64": 16384}
"""The largest memory pages that a kernel for it has; 16 KiB are a Raspberry Pi 5's."""


class Suite(NamedTuple):
    """A Debian release: its number, its Python and glibc, and the drop-ins that are for its systemd."""

    name: str
    number: int
    python: tuple[int, int]
    glibc: tuple[int, int]
    drop_ins: tuple[str, ...] = ()

    @property
    def python_version(self) -> str:
        return ".".join(map(str, self.python))


SUITES = {
    suite.name: suite
    for suite in (
        Suite("bookworm", 12, (3, 11), (2, 36)),
        Suite(
            "trixie", 13, (3, 13), (2, 40), ("systemd-254.conf",)
        ),  # its glibc is 2.41, of which uv does not know yet
    )
}
