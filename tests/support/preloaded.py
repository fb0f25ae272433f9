"""C libraries for `LD_PRELOAD`, compiled when they are first needed and kept for later runs."""

import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.support.brokers import one_at_a_time
from tests.support.requirements import require


def need_compiler() -> None:
    """Skip the test, with the reason, where no C compiler is installed."""
    if _compiler() is None:
        require("no cc or gcc on the PATH, to compile what is preloaded")


@cache
def library(source: Path) -> Path:
    """The library of this C file."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    library = Path.home() / ".cache" / "edged-tests" / f"{source.stem}-{digest}-{os.uname().machine}.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(library.with_suffix(".lock")):
        if not library.exists():
            fresh = library.with_suffix(".new")
            compiler = _compiler()
            assert compiler is not None, "ask need_compiler() first"
            command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(fresh), str(source)]
            subprocess.run([*command, "-ldl"], check=True, capture_output=True)
            fresh.rename(library)
    return library


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")
