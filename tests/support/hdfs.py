"""Real HDFS for tests: a NameNode and three DataNodes as child processes on loopback ports, replication 2.

Each can be stopped, killed, paused, resumed and started again by itself. The jars are Apache Hadoop's, by Maven.
"""

import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from edged.adapters.embedded.stores import hadoop_settings, namenode_state
from tests.support.brokers import Broker, free_port, maven_jars
from tests.support.requirements import require

_POM = Path(__file__).parent / "hadoop" / "pom.xml"
_START_S = 180.0
_LOOK_S = 0.1
_NUM_DATANODES = 3
_SETTINGS = {
    "dfs.replication": "2",
    "dfs.namenode.safemode.extension": "0",
    "dfs.heartbeat.interval": "1",
    "dfs.namenode.heartbeat.recheck-interval": "2000",  # a DataNode is dead after 14 s
    "dfs.namenode.reconstruction.pending.timeout-sec": "5",
    "dfs.namenode.datanode.registration.ip-hostname-check": "false",
    "dfs.datanode.hostname": "127.0.0.1",
    "dfs.namenode.fs-limits.min-block-size": "0",
    "hadoop.security.authentication": "simple",
    "dfs.ls.limit": "10",
    "dfs.permissions.enabled": "true",
    "dfs.permissions.superusergroup": "hdfs-admins",
}


def need_hdfs() -> None:
    """Skip the test, with the reason, where HDFS cannot be started."""
    if shutil.which("java") is None:
        require("no java on the PATH, for HDFS")
    if "EDGED_HADOOP_JARS" not in os.environ and shutil.which("mvn") is None:
        require("neither EDGED_HADOOP_JARS nor mvn, for Hadoop's jars")
    try:
        _jars()
    except (OSError, subprocess.CalledProcessError) as error:
        require(f"Maven could not fetch Hadoop's jars: {error}")


@functools.cache
def _jars() -> Path:
    """The folder of Hadoop's jars: $EDGED_HADOOP_JARS, or copied by Maven (once) to ~/.cache/edged-tests."""
    return maven_jars("hadoop", _POM, "EDGED_HADOOP_JARS")


def hdfs_program(folder: Path) -> None:
    """Make `hdfs` in the folder, as Hadoop's releases have it, by the jars that Maven copied."""
    names = "namenode.NameNode", "datanode.DataNode"
    classes = " ".join(f"{each.partition('.')[0]}) class=org.apache.hadoop.hdfs.server.{each} ;;" for each in names)
    options = "-Xmx256m --add-opens java.base/java.lang=ALL-UNNAMED -Djava.net.preferIPv4Stack=true"
    _make_web_pages(folder)
    script = folder / "hdfs"
    script.write_text(
        f"#!/bin/sh\nconf=$2 daemon=$3\nshift 3\ncase $daemon in {classes} esac\n"
        f'exec java {options} -Dhadoop.log.dir="$conf/.." -cp "$conf:{folder}:{_jars()}/*" $class "$@"\n'
    )
    script.chmod(0o755)


class _Daemon(Broker):
    """One process of HDFS. `main`: its class."""

    def __init__(self, main: str, conf: Path) -> None:
        super().__init__()
        self.web_port = free_port()
        self._main = main
        self._conf = conf
        self.options: list[str] = []

    def wait_until_up(self) -> None:
        """Its cluster waits for all of them."""

    def kill(self) -> None:
        """As a power cut would."""
        self.stop(signal.SIGKILL)

    def run(self, *arguments: str) -> None:
        """Run it once, to its end."""
        done = subprocess.run(self._java(*arguments), check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{self._main} {arguments}: {done.stdout}{done.stderr}")

    def _command(self) -> list[str]:
        return self._java(*self.options)

    def _java(self, *arguments: str) -> list[str]:
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        options += ["--add-opens", "java.base/java.lang=ALL-UNNAMED", f"-Dhadoop.log.dir={self.folder}"]
        java = os.path.realpath(shutil.which("java") or "java")
        return [java, *options, "-cp", f"{self._conf}:{_jars()}/*", self._main, *arguments]


class Hdfs:
    """A cluster, as a context manager; entering it returns when all DataNodes are known and it takes writes.

    `url`: of a folder that is there and belongs to `user`, in which anybody may make others.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edged-hdfs-")
        conf = Path(self._folder.name) / "conf"
        _make_web_pages(conf)
        self.namenode = _Daemon("org.apache.hadoop.hdfs.server.namenode.NameNode", conf)
        self.datanodes = tuple(
            _Daemon("org.apache.hadoop.hdfs.server.datanode.DataNode", conf) for _ in range(_NUM_DATANODES)
        )
        address = f"127.0.0.1:{self.namenode.port}"
        core = {"fs.defaultFS": f"hdfs://{address}"}
        hdfs = {
            **_SETTINGS,
            "dfs.namenode.rpc-address": address,
            "dfs.namenode.http-address": f"127.0.0.1:{self.namenode.web_port}",
            "dfs.namenode.name.dir": f"file://{self._folder.name}/name",
        }
        for name, settings in (("core-site.xml", core), ("hdfs-site.xml", hdfs)):
            (conf / name).write_text(hadoop_settings(settings))
        for number, node in enumerate(self.datanodes):
            of_node = {
                "dfs.datanode.data.dir": f"file://{self._folder.name}/data-{number}",
                "dfs.datanode.address": f"127.0.0.1:{node.port}",
                "dfs.datanode.ipc.address": f"127.0.0.1:{free_port()}",
                "dfs.datanode.http.address": f"127.0.0.1:{node.web_port}",
            }
            node.options = [word for name, value in of_node.items() for word in ("-D", f"{name}={value}")]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.namenode.port}"

    def about(self) -> Mapping[str, str]:
        """How to reach it, for `SharedHdfs`."""
        return {"port": str(self.namenode.port), "web_port": str(self.namenode.web_port)}

    def __enter__(self) -> Self:
        try:
            self.namenode.run("-format", "-nonInteractive", "-force", "-clusterId", "edged")
            for node in (self.namenode, *self.datanodes):
                node.launch()
            self.wait(_NUM_DATANODES)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for node in (*self.datanodes, self.namenode):
            node.__exit__()
        self._folder.cleanup()

    def restart_namenode(self) -> None:
        """Start it again; returns when it takes writes."""
        self.namenode.launch()
        self.wait(1)

    def restart(self, datanode: _Daemon) -> None:
        """Start it again; returns when it takes blocks."""
        datanode.launch()
        until_s = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", datanode.port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(_LOOK_S)
        self.wait(len(self.datanodes))

    def wait(self, num_datanodes: int) -> None:
        """Return when so many DataNodes are there and the NameNode takes writes."""
        until_s = time.monotonic() + _START_S
        while (state := namenode_state(self.namenode.web_port)).get("NumLiveDataNodes", 0) < num_datanodes or state.get(
            "FSState"
        ) != "Operational":
            if time.monotonic() > until_s:
                said = (self.namenode.folder / "output.log").read_text(errors="replace")
                raise RuntimeError(f"HDFS is not up: {state}; {said[-3000:]}")
            time.sleep(_LOOK_S)

    def writing_datanode(self) -> _Daemon:
        """A DataNode that has a block now that is being written."""
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s:
            for number, node in enumerate(self.datanodes):
                if any(Path(self._folder.name, f"data-{number}").rglob("rbw/blk_*")):
                    return node
            time.sleep(_LOOK_S)
        raise RuntimeError("no DataNode has a block that is being written")


def _make_web_pages(conf: Path) -> None:
    """The jars lack their web pages, and want folders for them."""
    for page in ("hdfs", "datanode", "secondary", "journal", "static"):
        (conf / "webapps" / page).mkdir(parents=True)
