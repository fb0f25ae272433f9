"""Topics that somebody deletes and creates again under the same name, and brokers rebuilt without their data."""

import shutil

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.support.brokers import Apache

_TIMEOUT_S = 30.0


def recreate(bootstrap: str, *topics: str) -> None:
    """Delete the topics and create each again, empty, with new ids; returns when they are there."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for deleted in admin.delete_topics(list(topics), operation_timeout=_TIMEOUT_S).values():
        deleted.result()
    for created in admin.create_topics(
        [NewTopic(topic, 1, 1) for topic in topics], operation_timeout=_TIMEOUT_S
    ).values():
        try:
            created.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # created by a client that asked for it
                raise


def rebuild(broker: Apache) -> None:
    """Stop the broker, if it runs, and start it on the same port without data: topics, commits and ids are gone."""
    broker.stop()
    shutil.rmtree(broker.folder / "data")
    broker.forget()
    broker.start()
