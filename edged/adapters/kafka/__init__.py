"""Apache Kafka as a `ports.Log`, on aiokafka.

`log` implements the port on top of `admin` (metadata, offsets, topics), `producer` (writes exactly once) and `reader`
(reads assigned partitions). Below them `connection` keeps a client connected and reports health, `batches` decodes
records, `security` makes the clients' settings, and `client_log` turns aiokafka's log lines into ours.
"""

from edged.adapters.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
