"""The sites of config/, at a broker and an archive of a test's own, and samples for their devices."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import yaml

from edged.adapters.images import encode
from edged.domain.topology import Topology

_ROOT = Path(__file__).parents[2]
_CONFIG = _ROOT / "config"
EXAMPLES = tuple(path.name for path in sorted(_CONFIG.glob("*.yaml")))


def example(file: str, site: str, kafka: str, archive: str, *, epochs: int = 1, mqtt: str | None = None) -> str:
    """The text of `file`, one of EXAMPLES, for some epochs of a site called `site`; `kafka`: its section, as YAML.

    So is `mqtt`; None: all devices speak Kafka. `archive`: a URL.
    """
    text = re.sub(r"(?m)^site: \S+", f"site: {site}", (_CONFIG / file).read_text())
    vaults = [node["name"] for node in yaml.safe_load(text)["archive"]]
    nodes = ", ".join(f'{{name: {name}, url: "{archive}", flush: 1s}}' for name in vaults)
    text = re.sub(r"(?ms)^kafka:\n.*?(?=^(?:mqtt|streams):)", lambda _: f"kafka: {kafka}\n\n", text)
    text = re.sub(r"(?ms)^mqtt:.*?(?=^streams:)", lambda _: f"mqtt: {mqtt}\n\n" if mqtt else "", text)
    if mqtt is None:
        text = re.sub(r", transport: mqtt(, id: \w+)?(, receipts: \w+)?", "", text)
    text = re.sub(r"(?ms)^archive:[^\n]*\n.*?(?=^training:)", lambda _: f"archive: [{nodes}]\n\n", text)
    text = re.sub(r"(?m)^  epochs: \d+", f"  epochs: {epochs}", text)
    return re.sub(r"warmup: \d+", "warmup: 0.5", text)


def made_samples(topology: Topology, device: str) -> Iterator[tuple[bytes, str | None]]:
    """Noise without end, as the device's stream has it, with its labels in turn."""
    spec = topology.device(device)
    stream = topology.stream(spec.stream)
    generator = np.random.default_rng(len(device))
    for number in count():
        label = stream.labels[number % len(stream.labels)] if stream.labels else None
        if spec.codec == "raw" and stream.dtype == "float32":
            yield generator.standard_normal(stream.shape).astype("<f4").tobytes(), label
        else:
            pixels = generator.integers(0, 256, stream.shape, np.uint8)
            yield pixels.tobytes() if spec.codec == "raw" else encode(pixels, spec.codec), label


def unit_environment() -> dict[str, str]:
    """What the unit sets for a node."""
    text = (_ROOT / "systemd" / "edged@.service").read_text()
    words = " ".join(re.findall(r"(?m)^Environment=(OPENBLAS.*)$", text)).split()
    return dict(word.split("=", 1) for word in words)
