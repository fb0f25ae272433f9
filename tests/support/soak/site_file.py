"""The topology of the soak's site, and how it changes when it is reloaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field

STREAM = "pixels"
DEVICES = {"dev-1": "pi-a", "dev-2": "pi-a", "dev-3": "pi-b"}
"""Each with its edge. Reloads bring more."""

SERVED = "pi-a"
"""The edge that has a companion."""

_TEXT = """\
schema: 1
site: soak
log: {{resources: {resources}}}
kafka: {{bootstrap: ["{bootstrap}"]}}
streams:
  pixels:
    sample: {{shape: [8, 8, 1], dtype: uint8}}
    labels: [even, odd]
iot:
{devices}
edges:
  - {{name: pi-a, cache: {{memory: 1MiB, disk: 8MiB}}, prefetch: 4MiB, memory_limit: 400MiB}}
  - {{name: pi-b, cache: {{memory: 1MiB, disk: 8MiB}}, prefetch: 4MiB, memory_limit: 400MiB}}
archive:
  - {{name: vault, url: "{archive}", flush: 500ms, trim: true}}
training:
  - name: group
    stream: pixels
    model: [flatten, dense: {{units: 16, activation: relu}}, dense: 2]
    epochs: {epochs}
    global_batch: 512
    micro_batch: 64
    checkpoint: 10s
    optimizer: {{sgd: {{learning_rate: 0.01}}}}
    sampling: {{mode: uniform}}
    exchange: {{mode: all_reduce}}
  - name: own
    stream: pixels
    source: live
    live_epoch: 500
    model: [flatten, dense: 2]
    epochs: 100000
    global_batch: 64
    micro_batch: 64
    checkpoint: 5s
    optimizer: {{sgd: {{learning_rate: 0.01}}}}
"""


@dataclass(frozen=True, slots=True)
class SiteFile:
    """What is in the file."""

    bootstrap: str
    archive: str
    devices: Mapping[str, str] = field(default_factory=lambda: dict(DEVICES))
    """Each with its edge."""

    resources_ms: int = 1000
    """Between two lines of `res.sample`."""

    epochs: int = 100_000

    def text(self) -> str:
        devices = [
            f"  - {{name: {name}, edge: {edge}, stream: pixels, codec: raw}}" for name, edge in self.devices.items()
        ]
        return _TEXT.format(
            bootstrap=self.bootstrap,
            archive=self.archive,
            devices="\n".join(devices),
            resources=f"{self.resources_ms}ms",
            epochs=self.epochs,
        )
