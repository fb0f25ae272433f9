"""The MQTT topics and client ids of a site, and the reading of a received packet's topic.

A site's and a node's name is one level of a topic each (see `topology.NAME_PATTERN`: no `/`, no wildcard). Covers names
alone. See also: `rights`, for who may use which topic.
"""

from typing import NamedTuple

from edged.domain.counted import counted
from edged.domain.samples.returned import MAX_VALUE_BYTES
from edged.errors import RejectedRecord

WRONG_TOPIC = "wrong_topic"
"""The reason for which a packet's topic is refused: one of `domain.samples.sample.REASONS`."""

_MAX_LEVELS_BELOW = 8
"""Of a response topic: Mosquitto ends the connection at 200 levels."""

_LEVEL_BREAKERS = frozenset("/+#\0")


class SampleTopic(NamedTuple):
    """The topic of a packet with one sample. None: not given there."""

    device: str
    label: str | None = None
    sample_id: str | None = None


class PackTopic(NamedTuple):
    """The topic of a packet with many samples, see `domain.samples.pack`."""

    device: str


def samples_topic(site: str, device: str, label: str = "", sample_id: str = "") -> str:
    """Where the device publishes a sample; label and id must each be a level, or else go into user properties."""
    levels = [site, "iot", device]
    if label or sample_id:
        levels.append(label)
    if sample_id:
        levels.append(sample_id)
    return "/".join(levels)


def packs_topic(site: str, device: str) -> str:
    """Where the device publishes many samples in one packet."""
    return f"{site}/packs/{device}"


def receipts_topic(site: str, device: str) -> str:
    """Where edged publishes the device's receipts: which of its samples Kafka holds."""
    return f"{site}/receipts/{device}"


def predictions_topic(site: str, device: str) -> str:
    """Where edged publishes the predictions for the device; a response topic that it asks for stands below."""
    return f"{site}/predictions/{device}"


def probe_topic(site: str, edge: str) -> str:
    """Where the edge publishes probes of its broker."""
    return f"{site}/edged/{edge}"


def of_device(site: str, device: str) -> tuple[str, ...]:
    """The filters of all that the device may publish. `x/#` covers `x`, too."""
    return f"{samples_topic(site, device)}/#", packs_topic(site, device)


def bridge_client_id(site: str, device: str) -> str:
    """Of the session in which the device's edge takes its packets; no name has a ':'.

    Of whichever edge: one that has the device from now on takes over the session and what waits in it, and none is left
    behind that the broker would fill.
    """
    return f"edged:{site}:bridge:{device}"


def prober_client_ids(site: str, edge: str) -> tuple[str, str]:
    """Of the edge's two sessions for probes: the publisher's, and the subscriber's."""
    return f"edged:{site}:{edge}", f"edged:{site}::{edge}"


def device_client_id(site: str, device: str) -> str:
    """Of the device's own session."""
    return f"edged:{site}:{device}"


def is_level(text: str) -> bool:
    """Whether the text can be one level of a topic: whole, and short enough for a header of each record."""
    try:
        return 0 < len(text.encode()) <= MAX_VALUE_BYTES and _LEVEL_BREAKERS.isdisjoint(text)
    except UnicodeEncodeError:
        return False


def may_answer_to(site: str, device: str, topic: str) -> bool:
    """Whether edged may publish the device's predictions to this response topic: their own topic, or one below it.

    Topics that some broker takes for malformed are excluded: it would end the edge's connection.
    """
    own = predictions_topic(site, device)
    if topic == own:
        return True
    below = topic.removeprefix(f"{own}/")
    levels = below.split("/")
    return below != topic and len(levels) <= _MAX_LEVELS_BELOW and is_level("".join(levels)) and below.isprintable()


def parse(site: str, topic: str) -> SampleTopic | PackTopic:
    """Read the topic of a device's packet; an empty level counts as not given.

    Raises RejectedRecord(wrong_topic) for a topic that no device of the site publishes samples to.
    """
    its_site, *levels = topic.split("/")
    match levels if its_site == site else []:
        case ["packs", device] if device:
            return PackTopic(device)
        case ["iot", device, *rest] if device and len(rest) <= 2:
            label, sample_id = [*rest, "", ""][:2]
            return SampleTopic(device, _value("label", label), _value("id", sample_id))
        case ["iot", _device, _label, _id, *more]:
            raise RejectedRecord(
                WRONG_TOPIC,
                f"{counted(len(more), 'level')} too many; {site}/iot/DEVICE/LABEL/ID is all that a topic says: a label"
                " with '/' goes into the user property label",
            )
    raise RejectedRecord(WRONG_TOPIC, f"no topic of samples: {site}/iot/DEVICE, {site}/iot/DEVICE/LABEL …")


def id_level(topic: str) -> str:
    """The id in a topic of samples, whatever else is wrong with it; empty without one."""
    match topic.split("/"):
        case [_site, "iot", _device, _label, sample_id]:
            return sample_id
    return ""


def _value(name: str, level: str) -> str | None:
    if not level:
        return None
    if not is_level(level):
        raise RejectedRecord(WRONG_TOPIC, f"the {name} has a wildcard, or more than {MAX_VALUE_BYTES} bytes in UTF-8")
    return level
