"""The MQTT adapter: paho-mqtt on the event loop's sockets, without a thread of its own.

Connections are made in a worker, and what the broker publishes is read here (`inbound`): paho copies the rest of a
packet for each of its properties, and holds whatever length the other side announces.
"""

from edged import extras

try:
    from edged.adapters.mqtt.broker import PahoBroker
except ModuleNotFoundError as error:  # a device's program has no one else to say it
    raise ModuleNotFoundError(extras.missing(error) or str(error), name=error.name) from None

__all__ = ["PahoBroker"]
