"""A line to the broker that is slow, or hardly there: nothing is lost, and who has no answer says so."""

from collections.abc import Callable
from pathlib import Path

from tests.support.brokers import Apache, Broker, free_port
from tests.support.proxy import Proxy
from tests.support.site import DEVICES, Site, following, running

UPLINK_BYTES_PER_S = 100_000 / 8
"""100 kbit/s."""

_SOURCE = ("--from", "fashion-mnist-small", "--rate", "max", "--count")


async def test_an_uplink_of_100_kbit_and_a_line_of_a_byte_a_second_lose_and_double_nothing(
    need_broker: Callable[[type[Broker]], None], tmp_path: Path
):
    need_broker(Apache)
    port, proxy_port = free_port(), free_port()
    with Proxy(port, proxy_port) as proxy, Apache(port=port, advertised=proxy_port) as broker:
        async with running(Site(tmp_path, broker.bootstrap, epochs=1, flush="200ms")) as site:
            vault, _edge, companion = nodes = await site.serve(100)
            proxy.bytes_per_s = UPLINK_BYTES_PER_S
            assert await (await site.start("sensor", DEVICES[0], *_SOURCE, "60")).ended() == 0
            await site.assert_each_archived_once(vault)

            proxy.bytes_per_s = 1
            for node in nodes:
                await node.wait_for("health.degraded", part="kafka")
            proxy.bytes_per_s = UPLINK_BYTES_PER_S
            for node in nodes:
                await node.wait_for("health.recovered", part="kafka")
            assert await (await site.start("sensor", DEVICES[1], *_SOURCE, "20")).ended() == 0
            await following(vault, "archive.flushed")
            proxy.bytes_per_s = float("inf")
            await site.assert_each_archived_once(vault)
            await site.assert_each_predicted_once(companion)
