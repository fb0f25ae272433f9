"""aiokafka's own log lines become ours, throttled per kind."""

import logging
from collections.abc import Callable
from typing import Any

from edged.adapters.kafka.client_log import ClientLog, ClientProblem


def test_the_clients_own_lines_are_logged_once_a_minute_per_kind(log_lines: Callable[..., list[dict[str, Any]]]):
    client = logging.getLogger("aiokafka.conn")
    with ClientLog() as client_log:
        for port in range(50):
            client.error("Unable connect to %s", port)
        client.warning("another kind")

    assert [(line["level"], line["message"]) for line in log_lines("kafka.client")] == [
        ("debug", "Unable connect to 0"),
        ("warning", "another kind"),
    ]
    assert client_log.last_problem == ClientProblem("another kind")
