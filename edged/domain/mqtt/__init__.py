"""MQTT as values: topics and client ids, what packets mean, what a broker must be told and must not lose.

Nothing here talks to a broker. See also: `ports.mqtt` and `services.mqtt`.
"""
