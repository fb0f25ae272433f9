"""The demo's topology file, as a user would write it: the text is printed, and every process reads it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

LARGE = 20_000
"""Training images from which on a hidden layer pays, and larger mini-batches learn enough and are less noisy."""

IMAGE_SHAPE = (64, 64, 3)
"""What the edge scales images to that come in all sizes."""

_LABELS_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo is asked to show."""

    site: str
    bootstrap: str
    archive: Mapping[str, str]
    """The keys of the archive's place, as YAML."""
    stream: str
    shape: tuple[int, ...]
    labels: Sequence[str]
    num_training: int
    edges: int
    epochs: int
    images: bool
    """Whether devices send JPEGs as they are; otherwise one sends raw pixels and the other PNGs."""
    security: str = ""
    """What the file's key `kafka.security` holds; empty for none."""
    mqtt: str = ""
    """The MQTT broker's address; empty: the devices speak Kafka."""


def edge_names(edges: int) -> list[str]:
    """The edges' names: pi-a, pi-b, and so on."""
    return [f"pi-{chr(ord('a') + i)}" for i in range(edges)]


def device_names(edge: str) -> list[str]:
    """The two devices of an edge."""
    return [f"cam-{edge[3:]}1", f"cam-{edge[3:]}2"]


def text(plan: Plan) -> str:
    """The file's text."""
    codecs = ("jpeg", "jpeg") if plan.images else ("raw", "png")
    edges = edge_names(plan.edges)
    devices = "\n".join(
        f"  - {{name: {device}, edge: {edge}, stream: {plan.stream}, codec: {codec}{_transport(plan)}}}"
        for edge in edges
        for device, codec in zip(device_names(edge), codecs, strict=True)
    )
    large = plan.num_training >= LARGE
    # A hidden layer would make a group's gradients, all of which the embedded broker keeps, seven times as large.
    hidden = "    - {dense: {units: 128, activation: relu}}\n" if large and plan.edges == 1 else ""
    return f"""\
schema: 1
site: {plan.site}
kafka:
  bootstrap: ["{plan.bootstrap}"]
{_security(plan)}{_mqtt(plan)}streams:
  {plan.stream}:
    sample: {{shape: {list(plan.shape)}, dtype: uint8}}
    labels:
      [{_wrapped([_quoted(label) for label in plan.labels])}]
iot:                # tier 1: devices sample
{devices}
edges:              # tier 2: edges train while data streams, and predict
{chr(10).join(f"  - {{name: {edge}, memory_limit: 400MiB}}" for edge in edges)}
archive:            # tier 3: the archive keeps it all, streams epochs back
  - name: vault
{chr(10).join(f"    {key}: {value}" for key, value in plan.archive.items())}
    flush: 2s
training:
  stream: {plan.stream}
  model:
    - {{conv2d: {{filters: 32, kernel: 3, activation: relu}}}}
    - {{max_pool2d: 2}}
    - {{conv2d: {{filters: 64, kernel: 3, activation: relu}}}}
    - {{max_pool2d: 2}}
    - flatten
{hidden}    - {{dense: {len(plan.labels)}}}
{_learning(plan, large=large)}"""


def _security(plan: Plan) -> str:
    return f"  security:\n{indent(plan.security.rstrip(), '    ')}\n" if plan.security.strip() else ""


def _mqtt(plan: Plan) -> str:
    return f'mqtt: {{broker: "{plan.mqtt}"}}\n' if plan.mqtt else ""


def _transport(plan: Plan) -> str:
    return ",\n     transport: mqtt, id: counter" if plan.mqtt else ""


def _learning(plan: Plan, *, large: bool) -> str:
    batch, learning_rate = (64, 0.05) if large else (32, 0.02)
    how = f"optimizer: {{sgd: {{learning_rate: {learning_rate}, momentum: 0.9}}}}"
    if plan.edges == 1:
        return f"""\
  source: both      # the archive's epochs, fresh samples in between
  epochs: {plan.epochs}
  global_batch: {batch}
  {how}
  schedule: {{cosine: {{warmup: 0.2}}}}
"""
    return f"""\
  source: archive   # its epochs are shared out among the edges
  epochs: {plan.epochs}
  global_batch: {2 * batch}  # of all edges together; twice the learning rate
  reference_batch: {batch}
  {how}
  schedule: {{cosine: {{warmup: {min(1.0, plan.epochs / 4):g}}}}}
  exchange:         # one model: all edges read all gradients
    mode: all_reduce
    compression: int8
"""


def stream_name(name: str) -> str:
    """A data set's name as a stream's: only what names may hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_")[:64] or "images"


def _wrapped(items: Sequence[str]) -> str:
    """The items of a flow sequence, on as many lines as make them fit a narrow terminal."""
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) > _LABELS_WIDTH:
            lines.append("")
        lines[-1] += f"{item}, "
    return "\n       ".join(line.rstrip() for line in lines).rstrip(",")


def _quoted(label: str) -> str:
    return '"' + label.replace("\\", "\\\\").replace('"', '\\"') + '"'
