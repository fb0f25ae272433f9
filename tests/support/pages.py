"""The pages for people, taken apart: their code blocks, commands, tables, links and headings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDERS = (".github", "config", "edged", "systemd", "tests")


class Page(NamedTuple):
    """A page: its path from the repository's root, and its text."""

    path: str
    text: str

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks in this language."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)

    def commands(self) -> list[str]:
        """All command lines, without their comments."""
        lines = [line for block in self.blocks("sh") for line in block.splitlines() if line]
        return [re.sub(r" +# .*", "", line) for line in lines]

    @property
    def prose(self) -> str:
        """All but the fenced blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    @property
    def spans(self) -> list[str]:
        """What stands in backticks, on one line each."""
        return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.prose)]

    @property
    def links(self) -> list[str]:
        """The targets of links and images."""
        without_code = re.sub(r"`[^`]+`", "", self.prose)
        return re.findall(r"\]\(([^)\s]+)\)", without_code)

    @property
    def anchors(self) -> set[str]:
        """The headings as GitHub names them in addresses."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}

    def table(self, header: str) -> list[list[str]]:
        """The cells of the rows of the one table whose first heading this is."""
        (rows,) = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", self.text, re.MULTILINE)
        return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows.splitlines()]

    def first_column(self, header: str) -> set[str]:
        """The words in backticks at the beginning of that table's rows."""
        return {word for first, *_ in self.table(header) for word in re.findall(r"`(\w+)`", first)}


def pages() -> dict[str, Page]:
    """Every page of the repository, by its path."""
    files = [*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.md"))]
    paths = sorted(file.relative_to(ROOT).as_posix() for file in files)
    return {path: Page(path, (ROOT / path).read_text()) for path in paths}


def commands() -> Iterator[tuple[Page, str]]:
    """All command lines of all pages."""
    return ((page, command) for page in pages().values() for command in page.commands())
