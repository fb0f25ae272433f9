"""The MQTT broker of a topology, as this process reaches it: its sessions, and what they share."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from edged.adapters.mqtt.connection import Options
from edged.adapters.mqtt.dialing import Dialer
from edged.adapters.mqtt.outage import Outage
from edged.adapters.mqtt.session import PahoSession
from edged.domain.topology import Mqtt, Tls
from edged.errors import ConfigError, Problem
from edged.ports import Health

DEADLINE_S = 5.0


class PahoBroker:
    """A `ports.MqttBroker`, to be entered. Raises ConfigError when its certificate files cannot be used.

    `deadline_s`: how long the broker may be away before health is degraded; its refusals degrade it at once.
    """

    def __init__(self, mqtt: Mqtt, health: Health, *, deadline_s: float = DEADLINE_S) -> None:
        if mqtt.tls is not None:
            _check(mqtt.tls)
        self._mqtt = mqtt
        self._health = health
        where = f"{mqtt.host}:{mqtt.port}"
        self._outage = Outage(health, where, is_tls=mqtt.tls is not None, deadline_s=deadline_s)
        self._dialer = Dialer(mqtt)

    async def __aenter__(self) -> Self:
        await self._dialer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._dialer.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def session(
        self, client_id: str, subscriptions: Sequence[str] = (), *, part: str
    ) -> AsyncIterator[PahoSession]:
        """See `ports.MqttBroker`."""
        options = Options(
            client_id,
            tuple(subscriptions),
            is_v5=True,
            window=self._mqtt.window,
            packet_bytes=self._mqtt.packet_bytes,
            username=self._mqtt.username,
            password=self._mqtt.password,
        )
        session = PahoSession(options, self._dialer, self._outage, self._health, part)
        session.open()
        try:
            yield session
        finally:
            session.close()


def _check(files: Tls) -> None:
    from edged.adapters import tls  # noqa: PLC0415 - a device without TLS does not load it

    if findings := tls.problems(files, "mqtt.tls"):
        raise ConfigError(tuple(Problem(each.path, each.message, each.suggestion) for each in findings))
