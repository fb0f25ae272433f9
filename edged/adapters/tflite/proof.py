"""Runs a model file in a child process before it is run here, and remembers how that went.

TFLite trusts the numbers in a file: altered ones crash the process, or take all memory or all time. A digest tells who
wrote a file, not that it can be run. Whether a file serves well is not asked here. See also: `probe` (the child).
"""

import contextlib
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

from edged import __version__
from edged.errors import FormatError, NotProven
from edged.files import read_regular

_TIMEOUT_S = 120.0
"""Covers a Python start and an import from a cold memory card on a busy machine."""

_CPU_S = 60
_MEMORY_BYTES = 512 << 20
"""Beside what Python, NumPy and the runtime take, and some copies of the file itself."""

_NICER_BY, _NICEST = 10, 19
"""The current model serves meanwhile."""

_COPIES = 8
_KEPT = 64
"""Verdicts: of some more files than a job keeps."""

_MAX_FILE_BYTES = 64 << 10
_MAX_REASON = 200


Runner = Literal["tflite", "features", "numpy", "kernels"]
"""What runs a file: TFLite; TFLite, each sample's outputs compared with those in a batch; numpy; or kernels."""

CHILD = "edged.adapters.tflite.probe"
"""The child's module, which has no kernels."""


class Probe:
    """The child process. One `run` at a time, in a thread; `stop` from any thread ends it, and later ones at once."""

    def __init__(self, module: str = CHILD) -> None:
        self._module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self, runner: Runner, content: bytes = b"") -> tuple[str, str]:
        """Run the model file in the child, without content a small one. Its stdout and stderr.

        Raises FormatError when that fails, NotProven when it might not another time.
        """
        memory_bytes = _MEMORY_BYTES + _COPIES * len(content)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",  # each takes 32 MiB
        }
        try:
            self._child = subprocess.Popen(  # noqa: S603 - this module's own command
                [sys.executable, "-P", "-m", self._module, runner, str(memory_bytes), str(_CPU_S)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
            )  # fmt: skip
            if self._is_stopped:
                self._child.kill()
            _make_nicer(self._child.pid)
            with self._child as child:
                try:
                    stdout, stderr = child.communicate(content, _TIMEOUT_S)
                finally:
                    child.kill()
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotProven(f"the probe did not run: {error}") from error
        said = stderr.decode(errors="replace")
        if child.returncode < 0:
            kind = NotProven if child.returncode == -signal.SIGKILL else FormatError
            raise kind(f"the probe ended with {signal.Signals(-child.returncode).name}")
        if child.returncode:
            kind = NotProven if child.returncode == os.EX_TEMPFAIL else FormatError
            last_line = said.strip().rpartition("\n")[2]
            raise kind(f"the probe ended with {child.returncode}: {last_line}")
        return stdout.decode(errors="replace"), said

    def stop(self) -> None:
        """End the child that runs, if there is one."""
        self._is_stopped = True
        if self._child is not None:
            self._child.kill()


class Proofs:
    """What became of model files in the child, by digest; kept in `file`, so that a start does not run them again.

    `module`: the child's, see `Probe`. `check` is called in one thread at a time.
    """

    def __init__(self, file: Path, module: str = CHILD) -> None:
        self._file = file
        self._probe = Probe(module)
        self._verdicts = _read(file)

    def check(self, runner: Runner, version: str, content: bytes) -> None:
        """Return once a child has run the file, now or before. Raises FormatError with the reason why it could not.

        `version`: of the code that runs it; of another one it is asked again, as of another edged.
        """
        code = f"{runner} {version} {__version__} {platform.machine()}\n"
        key = hashlib.sha256(code.encode() + content).hexdigest()
        if key not in self._verdicts:
            verdict = ""
            try:
                self._probe.run(runner, content)
            except NotProven:
                raise
            except FormatError as error:
                verdict = str(error)[:_MAX_REASON]
            self._remember(key, verdict)
        if reason := self._verdicts[key]:
            raise FormatError(reason)

    def stop(self) -> None:
        """Have a `check` that runs end soon. From any thread."""
        self._probe.stop()

    def _remember(self, key: str, verdict: str) -> None:
        self._verdicts = dict([*self._verdicts.items(), (key, verdict)][-_KEPT:])
        with contextlib.suppress(OSError):  # the next start asks again
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(self._verdicts), "utf-8")
            temporary.replace(self._file)


def _make_nicer(pid: int) -> None:
    """Let the process give way to this one, where the service manager lets us."""
    niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + _NICER_BY, _NICEST)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, niceness)


def _read(file: Path) -> dict[str, str]:
    try:
        verdicts = json.loads(read_regular(file, _MAX_FILE_BYTES))
        return {key: verdict for key, verdict in verdicts.items() if isinstance(verdict, str)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
