"""Expressions in place of a value: ${VAR}, ${VAR:-default} and ${cred:NAME}.

Their values are kept only in order to conceal them in messages.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edged.access import Exposure, exposure, why_refused
from edged.domain.topology import NAME_PATTERN
from edged.files import open_regular

MAX_CREDENTIAL_BYTES = 64 * 1024
_COPIES = Path("/run/credentials")
"""Where systemd puts what it gives to units (systemd.exec(5), LoadCredential=)."""

_EXPRESSION = re.compile(r"\$(?P<literal>\$\{)|\$\{(?P<inside>[^{}]*)\}|(?P<open>\$\{)")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_ONLY_REFERENCE = re.compile(r"\$\{(cred:[A-Za-z0-9._-]+|[A-Za-z_][A-Za-z0-9_]*)\}")
_MIN_UNQUOTED = 4


class VariableError(Exception):
    """A variable or credential is misspelt or missing. Neither message nor suggestion has any of its value."""

    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion


class MissingError(VariableError):
    """A variable or credential is missing on this machine."""


@dataclass(slots=True)
class Variables:
    """Looks up variables in `environment`, and credentials in the folder that it names."""

    environment: Mapping[str, str]
    public: Collection[str] = ()
    """Words of the file itself and of its schema: a value that is one of them is shown, as it tells nobody anything."""

    exposed: dict[str, Exposure] = field(default_factory=dict)
    """Credentials that others may read, by their expressions."""

    _expression_of: dict[str, str] = field(default_factory=dict, repr=False)

    def expand(self, text: str) -> str:
        """`text` with all expressions replaced; "$${" stands for "${". Raises VariableError."""
        if "${" not in text:
            return text
        result = _EXPRESSION.sub(self._replace, text)
        self._remember(result, text)
        return result

    def conceal(self, message: str) -> str:
        """`message` with every value from outside the file replaced by its expression.

        Values of fewer than 4 characters are replaced only in quotes, as all names in messages are.
        """
        for value in sorted(self._expression_of, key=len, reverse=True):
            expression = self._expression_of[value]
            message = message.replace(f'"{value}"', expression)
            if len(value) >= _MIN_UNQUOTED:
                message = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", expression.replace("\\", r"\\"), message)
        return message

    def _remember(self, value: str, expression: str) -> None:
        if value and value not in self.public:
            self._expression_of.setdefault(value, expression)

    def _replace(self, match: re.Match[str]) -> str:
        if match["literal"]:
            return "${"
        if match["open"]:
            raise VariableError("${ without a }", "write $${ for the characters themselves")
        inside = match["inside"]
        value = self._credential(inside[5:]) if inside.startswith("cred:") else self._variable(inside)
        self._remember(value, match[0])
        return value

    def _variable(self, inside: str) -> str:
        match = _VARIABLE.fullmatch(inside)
        if match is None:
            raise VariableError("this is not ${VARIABLE}, ${VARIABLE:-default} or ${cred:NAME}")
        value = self.environment.get(match["name"])
        if match["default"] is not None:
            return value or match["default"]
        if value is None:
            name = match["name"]
            raise MissingError(f"the environment has no variable {name}", f"set it, or write ${{{name}:-default}}")
        return value

    def _credential(self, name: str) -> str:
        if not re.fullmatch(NAME_PATTERN, name):
            raise VariableError("a credential's name is letters, digits, '.', '_' or '-'")
        folder = self.environment.get("CREDENTIALS_DIRECTORY")
        hint = "`edged node enable` has systemd give it to a unit; elsewhere set CREDENTIALS_DIRECTORY"
        if not folder:
            raise MissingError(f'there is no credential "{name}": CREDENTIALS_DIRECTORY is not set', hint)
        path = Path(folder) / name
        try:
            with open_regular(path) as file:
                content = file.read(MAX_CREDENTIAL_BYTES + 1)
            seen = exposure(path)
        except OSError as error:
            raise MissingError(
                f'the credential "{name}" cannot be read in {folder}: {why_refused(path, error, reads=True)}', hint
            ) from error
        if seen is not None and seen.is_writable:
            raise VariableError(f'the credential "{name}": {seen.message}', seen.mended)
        if seen is not None:
            self.exposed[f"${{cred:{name}}}"] = seen
        if len(content) > MAX_CREDENTIAL_BYTES:
            raise VariableError(f'the credential "{name}" is larger than {MAX_CREDENTIAL_BYTES} bytes')
        try:
            value = content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise VariableError(f'the credential "{name}" is not UTF-8 text') from None
        if not value:
            # Of systemd's copy the command knows where the secret itself is.
            mended = hint if path.is_relative_to(_COPIES) else f"put the secret into {path}"
            raise MissingError(f'the credential "{name}" is empty', mended)
        return value


def has_expression(text: str) -> bool:
    """Whether any part of `text` comes from outside the file."""
    return "${" in text


def credentials_in(text: str) -> Iterator[str]:
    """The names of the credentials that `text` refers to."""
    for match in _EXPRESSION.finditer(text):
        kind, _, name = (match["inside"] or "").partition(":")
        if kind == "cred" and re.fullmatch(NAME_PATTERN, name):
            yield name


def is_reference(text: str) -> bool:
    """Whether `text` is a single ${VAR} or ${cred:NAME}, and so contains no secret."""
    return _ONLY_REFERENCE.fullmatch(text) is not None
