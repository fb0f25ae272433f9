"""Apache Kafka as a `ports.Log`, on aiokafka.

`log` answers the port; `control` asks the small questions, `appending` writes exactly once, `reading` reads assigned
partitions. Below them `connection` keeps a client connected and tells health, `security` makes its settings, and
`client_log` brings aiokafka's own log lines into ours.
"""

from edged.adapters.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
