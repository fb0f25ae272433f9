"""PyYAML's syntax errors in plain words, at the line where the mistake most likely is.

PyYAML stops where the text no longer makes sense, often a line or more after the mistake. Only common mistakes are
translated; other messages are kept without the words that they quote from the file.
"""

import re
from typing import NamedTuple

import yaml

_NO_SPACE = re.compile(r"\s*(?:- )?[\w.-]+:[^\s/]")
_KEY = re.compile(r"[^#\"']*?:(?:\s|$)")


class Explanation(NamedTuple):
    """A mistake, with its line and column from 0."""

    line: int
    column: int
    message: str
    suggestion: str = ""


def explain(error: yaml.MarkedYAMLError, lines: list[str]) -> Explanation:
    """The most likely mistake in `lines`."""
    mark = error.problem_mark or error.context_mark or yaml.Mark("", 0, 0, 0, None, 0)
    problem = str(error.problem or error.context)
    line = lines[mark.line] if mark.line < len(lines) else ""
    explained = None
    if "\t" in line[: mark.column + 1]:
        explained = Explanation(mark.line, mark.column, "a tab", "indent with spaces, not tabs")
    elif re.search(r"(?<![\"'\w])\$\{", line):
        explained = Explanation(mark.line, mark.column, "${…} outside quotes", 'put "${…}" in quotes')
    elif problem.startswith("mapping values"):
        explained = _second_colon(lines, mark)
    elif problem.startswith("expected <block end>"):
        explained = _block(problem, lines, mark)
    elif problem.startswith("found character"):
        explained = Explanation(
            mark.line, mark.column, "no value outside quotes begins with this sign", "put it in quotes"
        )
    elif error.context_mark is not None:
        explained = _unfinished(problem, lines, error.context_mark, mark)
    return explained or Explanation(mark.line, mark.column, re.sub(r"'[^']*'|\"[^\"]*\"", _keep_token, problem))


def _second_colon(lines: list[str], mark: yaml.Mark) -> Explanation:
    above = _above(lines, mark.line)
    if above is not None and _NO_SPACE.match(lines[above]) and not _KEY.match(lines[above]):
        return _no_colon(lines, above)
    if above is not None and _indent(lines[mark.line]) > _indent(lines[above]):
        return Explanation(
            mark.line,
            _indent(lines[mark.line]),
            f"indented further than line {above + 1}, which has its value already",
            "lines of one section begin in the same column",
        )
    return Explanation(mark.line, mark.column, "a second colon in one line", 'put a text with ": " in it in quotes')


def _block(problem: str, lines: list[str], mark: yaml.Mark) -> Explanation | None:
    sign = problem.rpartition("found ")[2].strip("'")
    if sign in {"]", "}"}:
        return Explanation(mark.line, mark.column, f"this {sign} closes nothing")
    if sign == "<scalar>":
        return Explanation(mark.line, mark.column, "something follows a value in quotes")
    above = _above(lines, mark.line)
    if above is None or _indent(lines[mark.line]) == _indent(lines[above]):
        return Explanation(mark.line, mark.column, "a list's entry (-) among keys") if sign == "-" else None
    return _indentation(lines, above, mark.line)


def _indentation(lines: list[str], above: int, at: int) -> Explanation:
    """Of two neighbouring lines the wrong one is the one whose indentation is rarer in the file."""
    indents = [_indent(line) for line in lines if _has_content(line)]
    odd, other = at, above
    if indents.count(_indent(lines[above])) < indents.count(_indent(lines[at])):
        odd, other = above, at
    return Explanation(
        odd,
        _indent(lines[odd]),
        f"indented by {_indent(lines[odd])}, line {other + 1} by {_indent(lines[other])}",
        "lines of one section begin in the same column",
    )


def _unfinished(problem: str, lines: list[str], begin: yaml.Mark, mark: yaml.Mark) -> Explanation | None:
    sign = lines[begin.line][begin.column : begin.column + 1] if begin.line < len(lines) else ""
    if problem.startswith("could not find expected ':'"):
        return _no_colon(lines, begin.line)
    if problem.startswith("found unexpected end of stream") and sign in {'"', "'"}:
        return Explanation(begin.line, begin.column, f"this {sign} has no closing {sign}")
    if problem.startswith("expected ',' or") and sign in {"[", "{"}:
        if problem.endswith(("']'", "'}'")):
            return Explanation(mark.line, mark.column, f"this {problem[-2]} closes another sign than the {sign} before")
        if begin.line == mark.line:
            return Explanation(mark.line, mark.column, f"a comma is missing here, or the end of the {sign} before")
        return Explanation(begin.line, begin.column, f"this {sign} has no closing {']' if sign == '[' else '}'}")
    return None


def _no_colon(lines: list[str], at: int) -> Explanation:
    message = "no space after the colon" if _NO_SPACE.match(lines[at]) else "a key without its colon"
    return Explanation(at, _indent(lines[at]), message, "write key: value, with a colon and a space")


def _above(lines: list[str], at: int) -> int | None:
    """The nearest line above that is neither empty nor a comment."""
    return next((number for number in range(at - 1, -1, -1) if _has_content(lines[number])), None)


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _keep_token(match: re.Match[str]) -> str:
    """PyYAML quotes kinds of tokens ('<block end>') and single characters; other quoted words are the file's own."""
    word = match[0]
    return word if len(word) <= 4 or word[1] == "<" else "…"
