"""What an IoT device imports: publish samples, receive the edge's predictions for them, over Kafka or MQTT alike.

    async with Device("topology.yaml", "cam-01", buffer="/var/lib/cam") as device:
        sample_id = await device.publish(jpeg, label="boot")
        async for prediction in device.predictions():
            print(prediction.id, prediction.label)  # with an autoencoder: prediction.anomaly, prediction.is_anomalous

`publish` returns once the sample is safe: with a `buffer` on this device's own disk, from where it is sent until its
receipt; without one in Kafka. Loads neither numpy nor Pillow nor structlog before one of them is needed; MQTT takes the
extra `mqtt`. See also: edged/README.md, for what travels.
"""

from edged.device.device import Backlog, Buffer, Device

__all__ = ["Backlog", "Buffer", "Device"]
