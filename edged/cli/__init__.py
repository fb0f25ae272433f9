"""The `edged` command: one module per command, loaded when it is called.

A command module has `SUMMARY`, `configure(parser)` and `run(args) -> int`. Its imports stay light: what starts Kafka,
models or images is imported inside `run`, so that `edged --help` and `edged check` answer at once on a small board.

Exit codes: 0 done; 64 wrong usage; 69 Kafka or the archive does not answer; 70 an error nobody expected; 73 the
node's state folder cannot be used; 75 the node runs already; 77 Kafka does not know the user, or a right is missing; 78
the topology file is wrong, or Kafka refused for another reason, such as a record's size; 130 interrupted; others are
listed in a command's help.
"""

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn, TextIO, cast

from edged import __version__, extras
from edged.adapters.host.allocator import without_collections
from edged.cli.parser import Parser
from edged.cli.problems import complain, show
from edged.domain.suggest import did_you_mean
from edged.errors import (
    ConfigError,
    EdgedError,
    LogForbidden,
    LogRefused,
    MachineUnfit,
    MqttRefused,
    RecordTooLarge,
    StateFolderRefused,
    TransientError,
)

_CODES: tuple[tuple[type[EdgedError], int], ...] = (
    (TransientError, os.EX_UNAVAILABLE),
    (LogForbidden, os.EX_NOPERM),
    (LogRefused, os.EX_CONFIG),
    (MqttRefused, os.EX_CONFIG),
    (RecordTooLarge, os.EX_CONFIG),
    (MachineUnfit, 1),
)

COMMANDS = ("check", "schema", "topics", "run", "infer", "sensor", "archive", "replay", "node", "demo")
_NODES = ("run", "infer")
_DESCRIPTION = "Devices sample, edges train while data streams, an archive keeps it all."

INTERRUPTED, BROKEN_PIPE = 130, 141
"""As a shell reports SIGINT and SIGPIPE; the other codes are sysexits.h's, `os.EX_*`."""
_STDOUT, _STDERR = 1, 2

_32_BIT = (
    "32-bit systems are not supported, and this Python is a 32-bit one. On a Raspberry Pi it takes the 64-bit Raspberry"
    " Pi OS; a 64-bit kernel alone is not enough (there `dpkg --print-architecture` prints arm64)"
)


class Overview(Parser):
    """For `--help`, `--version` and mistakes; knows no command's own arguments."""

    def format_help(self) -> str:
        """Argparse's help and a line for each command. Loads every command's module."""
        rows = "".join(f"  {name:<9} {_command(name).SUMMARY}\n" for name in COMMANDS)
        return f"{super().format_help()}\ncommands:\n{rows}\nedged COMMAND --help tells more of each.\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (the process's by default) and return its exit code."""
    _open_standard_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except SystemExit as stop:  # argparse ends so: help, version, wrong usage
        code = stop.code if isinstance(stop.code, int) else os.EX_USAGE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost place: reported in full, with an exit code of its own
        code = _report(error)
    return code


def whole_parser() -> Parser:
    """All commands' arguments in one parser, for what is made of them: manuals, completions. Loads every command."""
    parser = Parser(prog="edged", description=_DESCRIPTION, allow_abbrev=False)
    _add_version(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = _command(name)
        module.configure(commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY, allow_abbrev=False))
    return parser


def run_and_exit() -> NoReturn:
    """The life of the process: `main`, and its end."""
    code = main()
    if "pyarrow" in sys.modules:
        # Its threads may abort the process while the interpreter clears up behind them; all work is done by now.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Open the null device for streams that the process was started without: a socket might get their numbers.

    What a terminal's encoding does not have, and what is no text in a file's name, is written as an escape.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(_STDOUT, "w", closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stderr = sys.stderr or open(_STDERR, "w", closefd=False)  # noqa: SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(words: list[str]) -> int:
    if sys.maxsize < 1 << 32:  # before numpy is imported, which may be there or not
        complain("edged", _32_BIT)
        return os.EX_CONFIG
    if words and words[0] in COMMANDS:
        if words[0] in _NODES:
            # SIGHUP waits, as one that is pending, until the node can read its topology again. Before there are other
            # threads, and numpy starts some: one that does not hold it back would end the process.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        with without_collections():
            module = _command(words[0])
        parser = Parser(prog=f"edged {words[0]}", description=module.SUMMARY, allow_abbrev=False)
        module.configure(parser)
        code: int = module.run(parser.parse_args(words[1:]))
        return code
    overview = Overview(
        prog="edged",
        usage="edged COMMAND …",
        description=_DESCRIPTION,
        allow_abbrev=False,
    )
    _add_version(overview)
    if words and not words[0].startswith("-"):
        overview.error(f'no command is called "{words[0]}" {_hint(words[0])}'.rstrip())
    overview.parse_args(words)
    return overview.error("a command is missing; edged --help lists them")


def _add_version(parser: Parser) -> None:
    parser.add_argument("--version", action="version", version=f"edged {__version__}")


def _report(error: Exception) -> int:
    """Print to stderr what went wrong, to the journal as an error; the exit code for it."""
    from edged.log import is_journal  # noqa: PLC0415 - not for commands that end well
    from edged.log.output import JournalErrors  # noqa: PLC0415

    stream = cast("TextIO", JournalErrors(sys.stderr)) if is_journal(sys.stderr) else sys.stderr
    if isinstance(error, ConfigError):
        show(error.problems, stream)
        return os.EX_CONFIG
    if isinstance(error, StateFolderRefused):
        complain("edged", f"{error} (STATE_DIRECTORY or XDG_STATE_HOME names another)", stream)
        return os.EX_CANTCREAT
    if missing := extras.missing(error):
        complain("edged", missing, stream)
        return os.EX_CONFIG  # restarting does not help
    if isinstance(error, EdgedError):
        complain("edged", error, stream)
        return next((code for kind, code in _CODES if isinstance(error, kind)), os.EX_SOFTWARE)
    traceback.print_exception(error, file=stream)
    return os.EX_SOFTWARE


def _hint(word: str) -> str:
    suggestion = did_you_mean(word, COMMANDS)
    return f"({suggestion})" if suggestion else ""


def _command(name: str) -> ModuleType:
    return import_module(f"edged.cli.{name}")
