"""The MQTT adapter: paho-mqtt on the event loop's sockets, without a thread of its own.

Connections are made in a worker, and what the broker publishes is read here (`inbound`): paho copies the rest of a
packet for each of its properties, and holds whatever length the other side announces.
"""

from edged.adapters.mqtt.broker import PahoBroker

__all__ = ["PahoBroker"]
