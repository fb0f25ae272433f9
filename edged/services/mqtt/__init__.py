"""The edge's MQTT bridge: devices' packets into their Kafka topics, and what goes back to the devices."""
