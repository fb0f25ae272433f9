"""Connections that are given up, or fail: nobody is told any more, and nothing is left of them."""

import asyncio
import socket

from edged.adapters.mqtt.dialing import Dialer
from edged.domain.topology import Mqtt, Tls
from tests.support.mosquitto import Stranger


async def test_a_connection_that_is_given_up_when_it_is_there_tells_nobody_and_is_closed(process):
    told: list[socket.socket | None] = []
    with Stranger(b"") as stranger:
        async with Dialer(stranger.mqtt) as dialer:
            give_up = dialer.dial(lambda made, _error: told.append(made))
            dialer._threads.shutdown()  # the event loop is to hear of it
            await asyncio.sleep(0)  # and has heard of it, and not called anybody
            give_up()
            await asyncio.sleep(0.01)
    assert told == []


async def test_a_handshake_that_fails_leaves_nothing_behind(process):
    failed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    with Stranger(b"no TLS at all\r\n") as stranger:
        async with Dialer(Mqtt(f"127.0.0.1:{stranger.port}", Tls())) as dialer:
            dialer.dial(lambda _made, error: failed.set_result(error))
            assert isinstance(await failed, OSError)
            assert not dialer._dialing
