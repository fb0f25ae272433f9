"""Three Apache Kafkas and their controller, which hold each record three times and want it in two of them.

Each can be stopped, killed, paused and resumed by itself, with the methods of its `Apache`; with one of them away,
another leads after some ten seconds, and writers and readers go on.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, Self

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.support.brokers import Apache

_PATIENCE_S = 180.0
_CONTROLLER_NODE = "100"


class KafkaCluster:
    """A context manager; entering it returns when all three answer."""

    def __init__(self) -> None:
        self._controller = Apache()
        controller = f"{_CONTROLLER_NODE}@127.0.0.1:{self._controller.controller_port}"
        common = {**_REPLICATED, "controller.quorum.voters": controller}
        self._controller.settings = {
            **common,
            "process.roles": "controller",
            "node.id": _CONTROLLER_NODE,
            "listeners": f"CONTROLLER://127.0.0.1:{self._controller.controller_port}",
            "advertised.listeners": "",
        }
        self.brokers = tuple(Apache() for _ in range(3))
        for node, broker in self._by_node().items():
            listener = f"PLAINTEXT://127.0.0.1:{broker.port}"
            broker.settings = {**common, "process.roles": "broker", "node.id": str(node), "listeners": listener}
        for process in self._processes:
            process.heap = "256m"

    @property
    def bootstrap(self) -> str:
        """The addresses of all three, separated by commas."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def create(self, topics: Sequence[NewTopic]) -> None:
        """Create these topics, which must name their replicas: the first of them leads."""
        admin = self._admin()
        for made in admin.create_topics(list(topics)).values():
            made.result()

    def leader(self, topic: str) -> Apache:
        """The broker that leads the topic's only partition."""
        [partition] = self._metadata(topic).topics[topic].partitions.values()
        return self._by_node()[partition.leader]

    def is_whole(self, topic: str) -> bool:
        """Whether all three have all of the topic."""
        return len(self._metadata(topic).topics[topic].partitions[0].isrs) == len(self.brokers)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for process in self._processes:
                stack.callback(process.__exit__)
                process.launch()
            for broker in self.brokers:
                broker.wait_until_up()
            while len(self._metadata().brokers) < len(self.brokers):
                pass
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    @property
    def _processes(self) -> tuple[Apache, ...]:
        return (self._controller, *self.brokers)

    def _by_node(self) -> dict[int, Apache]:
        return dict(enumerate(self.brokers, 1))

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _metadata(self, topic: str | None = None) -> Any:
        return self._admin().list_topics(topic, timeout=_PATIENCE_S)


_REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}
