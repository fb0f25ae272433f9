"""The Kafka topics that a device has to do with, by name: all that it needs to know of a topology."""


def device_topic(site: str, device: str) -> str:
    """The device's samples: key = label or null, value = payload."""
    return f"{site}.iot.{device}"


def predictions_topic(site: str, edge: str, job: str = "") -> str:
    """Predictions of one edge, by the model of one job; key = the device."""
    return f"{site}.predictions.{edge}" + (f".{job}" if job else "")
