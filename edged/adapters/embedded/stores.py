"""Stores for the demo's archive: an S3 gateway, and HDFS. Their programs are the machine's own.

Not for production: one process each holds the data, once. See also: `brokers`.
"""

import asyncio
import json
import secrets
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self
from xml.sax.saxutils import escape

from edged.adapters.embedded.server import ChildServer, ServerUnavailable, free_port, is_open, program

_BUCKET = "edged-demo"
_REGION = "us-east-1"
_HADOOP = "unpack Apache Hadoop (https://hadoop.apache.org/releases.html) and put its folder bin on the PATH"
_ANSWER_S = 5.0


class LocalS3(ChildServer):
    """versitygw on a folder. `environment`: the keys, as each client of S3 reads them; `keys`: the topology's."""

    def __init__(self, folder: Path) -> None:
        access, secret = "demo", secrets.token_urlsafe(24)
        super().__init__("versitygw", environment={"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": secret})
        self._folder = folder
        self.environment = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        self.keys = {
            "url": f"s3://{_BUCKET}/archive",
            "s3": f'{{endpoint: "http://{self.address}", region: {_REGION}}}',
        }

    def _command(self) -> Sequence[str]:
        gateway = program("versitygw", "go install github.com/versity/versitygw/cmd/versitygw@latest")
        (self._folder / _BUCKET).mkdir(parents=True, exist_ok=True)
        return [gateway, "--port", self.address, "--region", _REGION, "posix", str(self._folder)]

    async def _is_up(self) -> bool:
        return await is_open(self.address)


class LocalHdfs:
    """A NameNode and a DataNode of Hadoop, below a folder. `keys`: the topology's.

    Raises as `ChildServer` does.
    """

    def __init__(self, folder: Path) -> None:
        self._conf = folder / "conf"
        self._web_port = free_port()
        self._namenode = _Daemon("namenode", self._conf, self._web_port)
        self._datanode = _Daemon("datanode", self._conf, self._web_port)
        self._settings = {
            "core-site.xml": {"fs.defaultFS": f"hdfs://{self._namenode.address}"},
            "hdfs-site.xml": {
                "dfs.replication": "1",
                "dfs.namenode.rpc-address": self._namenode.address,
                "dfs.namenode.http-address": f"127.0.0.1:{self._web_port}",
                "dfs.namenode.name.dir": (folder / "name").as_uri(),
                "dfs.namenode.safemode.extension": "0",
                "dfs.namenode.datanode.registration.ip-hostname-check": "false",
                "dfs.datanode.data.dir": (folder / "data").as_uri(),
                "dfs.datanode.hostname": "127.0.0.1",
                "dfs.datanode.address": self._datanode.address,
                "dfs.datanode.ipc.address": f"127.0.0.1:{free_port()}",
                "dfs.datanode.http.address": f"127.0.0.1:{free_port()}",
            },
        }
        self.environment: Mapping[str, str] = {}
        self.keys = {"url": f"hdfs://{self._namenode.address}/archive"}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        hdfs = program("hdfs", _HADOOP)
        self._conf.mkdir(parents=True)
        for name, settings in self._settings.items():
            (self._conf / name).write_text(hadoop_settings(settings), encoding="utf-8")
        await _run(hdfs, "--config", str(self._conf), "namenode", "-format", "-nonInteractive")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._namenode)
            await stack.enter_async_context(self._datanode)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._stack.aclose()


class _Daemon(ChildServer):
    """`hdfs NAME`; up when the NameNode's web port says so."""

    def __init__(self, name: str, conf: Path, web_port: int) -> None:
        super().__init__(f"HDFS's {name}")
        self._daemon = name
        self._conf = conf
        self._web_port = web_port

    def _command(self) -> Sequence[str]:
        return [program("hdfs", _HADOOP), "--config", str(self._conf), self._daemon]

    async def _is_up(self) -> bool:
        state = await asyncio.to_thread(namenode_state, self._web_port)
        return bool(state) and (self._daemon == "namenode" or state.get("NumLiveDataNodes", 0) > 0)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise ServerUnavailable(f"{' '.join(command)}: {said.decode(errors='replace')[-2000:].strip()}")


def namenode_state(web_port: int) -> Mapping[str, Any]:
    """What the NameNode says of itself; nothing while it does not answer."""
    query = "jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{web_port}/{query}", timeout=_ANSWER_S) as answer:
            [state] = json.load(answer)["beans"]
    except (OSError, ValueError, KeyError):
        return {}
    return dict(state)


def hadoop_settings(settings: Mapping[str, str]) -> str:
    """The text of one of Hadoop's files of settings."""
    rows = (
        f"<property><name>{name}</name><value>{escape(value)}</value></property>" for name, value in settings.items()
    )
    return f"<configuration>{''.join(rows)}</configuration>\n"
