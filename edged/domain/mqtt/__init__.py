"""MQTT as values: topics and client ids, the meaning of packets, a broker's settings, rights and limits.

Nothing here talks to a broker. See also: `ports.mqtt` and `services.mqtt`.
"""
