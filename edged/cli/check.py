"""`edged check`: is the topology file valid, and what does it come to?

The plan is made once as plain values; `--json` prints those, else they are laid out for people.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from edged import topology_file
from edged.cli.arguments import add_topology
from edged.cli.backbone import look_up
from edged.cli.problems import show
from edged.domain.nn.spec import LayerSpec, shapes
from edged.domain.suggest import did_you_mean
from edged.domain.topology import Augment, Backbone, Device, Edge, Exchange, Topology, Training
from edged.domain.topology.topics import grants, prediction_topics, topics
from edged.domain.training.schedule import batch_factor
from edged.domain.validation.memory import cache_index, edge_budget, exchange_memory, mebibytes, training_memory
from edged.domain.validation.rules import sample_bytes
from edged.errors import ConfigError, Problem

SUMMARY = "validate the topology file and print the plan it comes to"

Plan = dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_topology(parser)
    parser.add_argument("--node", metavar="NAME", help="only what concerns this node")
    parser.add_argument("--json", action="store_true", help="print JSON, problems included")
    parser.add_argument(
        "--strict", action="store_true", help="variables and credentials must be there, as when the node starts"
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan and return 0, or the problems and 78."""
    try:
        topology, warnings = topology_file.inspect(args.topology, lenient=not args.strict, look_up_backbone=look_up)
        if args.node is not None:
            require_node(topology, args.node, str(args.topology))
    except ConfigError as error:
        if not args.json:
            raise
        print(json.dumps({"valid": False, "problems": [_as_json(p) for p in error.problems]}, indent=2))
        return 78
    plan = plan_of(topology, args.node)
    if args.json:
        print(json.dumps({"valid": True, **plan, "warnings": [_as_json(w) for w in warnings]}, indent=2))
        return 0
    print("\n".join(_text(plan)))
    sys.stdout.flush()
    show(warnings, sys.stderr, kind="warning")
    return 0


def require_node(topology: Topology, name: str, file: str) -> None:
    """Raises ConfigError when the topology has no node of that name."""
    if topology.tier_of(name) is None:
        known = [node.name for tier in (topology.iot, topology.edges, topology.archive) for node in tier]
        message = f'no node is called "{name}"'
        raise ConfigError((Problem("", message, did_you_mean(name, known) or f"known: {', '.join(known)}", file),))


# the plan


def plan_of(topology: Topology, node: str | None = None) -> Plan:
    """What the topology comes to, as JSON values; for one node, only its part."""
    tier = topology.tier_of(node) if node else None
    devices, edges = _concerned(topology, node)
    trains = tier in {None, "edge"}
    return {
        "site": topology.site,
        **({"node": node, "tier": tier} if node else {}),
        "kafka": {
            "bootstrap": list(topology.kafka.bootstrap),
            "protocol": topology.kafka.security.protocol,
        },
        "iot": [_device(topology, device) for device in devices],
        "edges": [_edge(topology, edge) if trains else {"name": edge.name} for edge in edges],
        "archive": [
            {"name": archive.name, "url": archive.url, "sources": _sources(topology)}
            for archive in topology.archive
            if tier in {None, "archive"}
        ],
        **({"jobs": [_job(topology, job) for job in topology.jobs]} if trains else {}),
        "groups": [
            _group(topology, job)
            for job in topology.jobs
            if job.exchange.mode != "none" and (trains or topology.server_of(job) == node)
        ],
        "topics": [
            {
                "name": t.name,
                "retention_ms": t.retention_ms,
                "max_message_bytes": t.max_message_bytes,
                "compacted": t.compacted,
            }
            for t in topics(topology)
            if node is None or t.name in _topics_of(topology, node)
        ],
    }


def _concerned(topology: Topology, node: str | None) -> tuple[Sequence[Device], Sequence[Edge]]:
    """The devices and edges that a node has to do with; all of them without a node."""
    tier = topology.tier_of(node) if node else None
    if node and tier == "iot":
        device = topology.device(node)
        return [device], [topology.edge(device.edge)]
    if node and tier == "edge":
        return topology.devices_of(node), [topology.edge(node)]
    return () if tier == "archive" else topology.iot, topology.edges


def _topics_of(topology: Topology, node: str) -> set[str]:
    return {grant.topic for grant in grants(topology) if grant.principal == node}


def _sources(topology: Topology) -> list[Plan]:
    """What comes to the archive: each edge's packs of each stream."""
    pairs = dict.fromkeys((device.edge, device.stream) for device in topology.iot)
    return [
        {"edge": edge, "stream": stream, "topic": topology.archive_topic(stream, edge)}
        for edge, stream in sorted(pairs, key=lambda pair: [each.name for each in topology.edges].index(pair[0]))
    ]


def _device(topology: Topology, device: Device) -> Plan:
    return {
        "name": device.name,
        "edge": device.edge,
        "stream": device.stream,
        "codec": device.codec,
        "topic": topology.device_topic(device.name),
        "predictions": prediction_topics(topology, device.edge),
    }


def _edge(topology: Topology, edge: Edge) -> Plan:
    models = [training_memory(job, topology.stream(job.stream)) for job in topology.jobs]
    budget = edge_budget(topology, edge, models)
    return {
        "name": edge.name,
        "rank": topology.edges.index(edge),
        "devices": [device.name for device in topology.devices_of(edge.name)],
        "memory": {**budget.parts, "total": budget.total, "limit": budget.limit},
        "disk_cache": edge.cache.disk,
        "cache_index": _cache_index(topology, edge),
    }


def _cache_index(topology: Topology, edge: Edge) -> int:
    """What a full cache's index takes beside the budget; how large the data set will be is not known here."""
    return max(
        (
            cache_index(edge.cache, sample_bytes(topology.stream(job.stream)), job.sampling.mode)
            for job in topology.jobs
            if job.source != "live"
        ),
        default=0,
    )


def _job(topology: Topology, training: Training) -> Plan:
    stream = topology.stream(training.stream)
    input_shape, memory = training.input_shape(stream), training_memory(training, stream)
    assert input_shape is not None, "backbones were looked into"
    assert memory is not None
    before = shapes(input_shape, training.model)
    return {
        "name": training.name,
        "stream": training.stream,
        "source": training.source,
        "epochs": training.epochs,
        "global_batch": training.global_batch,
        "steps": _steps_text(training),
        "input": list(before[0]),
        "backbone": _backbone(training.backbone),
        "layers": [
            {"layer": layer_text(layer), "output": list(after), "parameters": layer.num_parameters(shape)}
            for layer, shape, after in zip(training.model, before, before[1:], strict=False)
        ],
        "parameters": memory.parameters,
        "memory": {
            "weights": memory.weights,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "total": memory.total,
        },
    }


def _group(topology: Topology, job: Training) -> Plan:
    """Who trains the job's model together, and how."""
    server, memory = topology.server_of(job), training_memory(job, topology.stream(job.stream))
    assert memory is not None
    return {
        "job": job.name or job.stream,
        "members": [edge.name for edge in topology.edges],
        "mode": job.exchange.mode,
        "compression": _compression_text(job.exchange),
        "sync_every": job.exchange.sync_every,
        "server": server,
        "server_memory": exchange_memory(topology, job, server, memory) if server else None,
        "log": topology.train_topic(job),
        "gradients": topology.gradients_topic(job) if server else None,
        "checkpoints": topology.checkpoints_topic(job),
    }


def _compression_text(exchange: Exchange) -> str:
    return f"top_k {exchange.top_k:g}" if exchange.compression == "top_k" else exchange.compression


def _backbone(backbone: Backbone | None) -> Plan | None:
    if backbone is None or backbone.file is None:
        return None
    file = backbone.file
    return {"model": backbone.model, "sha256": file.sha256, "input": list(file.sample_shape)}


def layer_text(layer: LayerSpec) -> str:
    """The layer as in the file, defaults left out: "conv2d filters 32 kernel 3×3 activation relu"."""
    return _settings_text(layer.kind, layer)


def _settings_text(name: str, settings: Any) -> str:
    words = [name]
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if value != setting.default:
            words += [setting.name, _shape(value) if isinstance(value, tuple) else str(value)]
    return " ".join(words)


def _steps_text(training: Training) -> str:
    """How steps are made, defaults left out: "adam learning_rate 0.01, cosine warmup 1, weight_decay 0.0005"."""
    parts = [training.optimizer, training.schedule, *([training.augment] if training.augment != Augment() else [])]
    words = [_settings_text(type(part).__name__.lower(), part) for part in parts]
    words += [f"weight_decay {training.weight_decay:g}"] if training.weight_decay else []
    words += [f"clip_norm {training.clip_norm:g}"] if training.clip_norm is not None else []
    factor = batch_factor(training.optimizer, training.global_batch, training.reference_batch)
    words += [f"learning rate × {factor:g} for its batch"] if factor != 1 else []
    return ", ".join([training.loss, *words])


def _as_json(problem: Problem) -> Plan:
    return {
        "place": problem.place,
        "path": problem.path,
        "message": problem.message,
        "suggestion": problem.suggestion,
    }


# the plan for people


def _text(plan: Plan) -> Iterator[str]:
    kafka = f"over Kafka at {', '.join(plan['kafka']['bootstrap'])} ({plan['kafka']['protocol']})"
    tier = plan.get("tier")
    if tier is None:
        yield f"{plan['site']}: {' → '.join(f'{len(plan[each])} {noun}' for each, noun in _nouns(plan))}, {kafka}"
    else:
        yield f"{plan['node']} is in tier {tier} of {plan['site']}, {kafka}; below is what concerns it"
    yield ""
    yield from _devices_text(plan["iot"], with_predictions=tier == "iot")
    if tier in {None, "edge"}:
        yield from _edges_text(plan["edges"])
    yield from _archive_text(plan["archive"], with_sources=tier == "archive")
    if "jobs" in plan:
        yield from _jobs_text(plan["jobs"])
    for group in plan["groups"]:
        yield from _group_text(group)
    yield from _table(
        ("topics", "retention", "largest message"),
        [[topic["name"], _retention(topic), _largest(topic)] for topic in plan["topics"]],
    )
    yield "valid"


def _devices_text(devices: Sequence[Plan], *, with_predictions: bool) -> Iterator[str]:
    keys = ["edge", "stream", "codec", "topic", *(["predictions"] if with_predictions else [])]
    if devices:
        yield from _table(["iot", *keys], [[_joined(device[key]) for key in ("name", *keys)] for device in devices])


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _edges_text(edges: Sequence[Plan]) -> Iterator[str]:
    yield from _table(
        ("edges", "rank", "memory needed", "limit", "disk cache", "devices"),
        [
            [
                edge["name"],
                str(edge["rank"]),
                mebibytes(edge["memory"]["total"]),
                mebibytes(edge["memory"]["limit"]),
                mebibytes(edge["disk_cache"]),
                ", ".join(edge["devices"]) or "none",
            ]
            for edge in edges
        ],
    )
    for edge in edges:
        yield f"memory of {edge['name']}: {_sum(edge['memory'])}"
        if edge["cache_index"]:
            yield _index_text(edge)
    yield ""


def _index_text(edge: Plan) -> str:
    """No reason to refuse an edge: only a data set as large as its cache ever fills it."""
    text = f"index of {edge['name']}'s cache, once it is full: {mebibytes(edge['cache_index'])} more"
    above = edge["memory"]["total"] + edge["cache_index"] - edge["memory"]["limit"]
    if above <= 0:
        return text
    return f"{text}, {mebibytes(above)} above the limit: raise memory_limit or make cache.disk smaller"


def _archive_text(archives: Sequence[Plan], *, with_sources: bool) -> Iterator[str]:
    for archive in archives:
        yield from _table(("archive", "url"), [[archive["name"], archive["url"]]])
        if with_sources:
            keys = ("edge", "stream", "topic")
            yield from _table(("from", *keys[1:]), [[source[key] for key in keys] for source in archive["sources"]])


def _nouns(plan: Plan) -> list[tuple[str, str]]:
    nouns = (("iot", "device"), ("edges", "edge"), ("archive", "archive"))
    return [(tier, noun if len(plan[tier]) == 1 else f"{noun}s") for tier, noun in nouns]


def _jobs_text(jobs: Sequence[Plan]) -> Iterator[str]:
    if not jobs:
        yield "nothing is trained: the file has no training section"
        yield ""
    for job in jobs:
        if job["name"]:
            yield f"job {job['name']}"
            yield ""
        yield from _job_text(job)


def _job_text(model: Plan) -> Iterator[str]:
    if backbone := model["backbone"]:
        yield f"backbone {backbone['model']}, SHA-256 {backbone['sha256']}"
        yield f"frozen: {_shape(backbone['input'])} → {_shape(model['input'])} features, on which the model is trained"
        yield ""
    rows = [["input", _shape(model["input"]), ""]]
    rows += [[layer["layer"], _shape(layer["output"]), f"{layer['parameters']:,}"] for layer in model["layers"]]
    rows.append(["together", "", f"{model['parameters']:,}"])
    yield from _table(("model", "output", "parameters"), rows)
    job = f"{model['epochs']} epochs in batches of {model['global_batch']}"
    yield f"trained on {model['stream']} (source: {model['source']}), {job}"
    yield f"steps: {model['steps']}"
    yield f"memory of the model: {_sum(model['memory'])}"
    yield ""


def _group_text(group: Plan) -> Iterator[str]:
    often = f" every {group['sync_every']} steps" if group["sync_every"] > 1 else ""
    compression = "" if group["compression"] == "none" else f", compression {group['compression']}"
    members = ", ".join(group["members"])
    yield f"one model of {group['job']}: {members} combine their gradients{often} ({group['mode']}{compression})"
    if group["server"]:
        held = mebibytes(group["server_memory"])
        yield f"combined by {group['server']}, which holds {held} for it, from {group['gradients']}"
    yield f"their log: {group['log']}, their checkpoints: {group['checkpoints']}"
    yield ""


def _sum(memory: Plan) -> str:
    terms = " + ".join(f"{part} {mebibytes(size)}" for part, size in memory.items() if part not in {"total", "limit"})
    limit = f" of {mebibytes(memory['limit'])}" if "limit" in memory else ""
    return f"{terms} = {mebibytes(memory['total'])}{limit}"


def _shape(shape: Sequence[int]) -> str:
    return "×".join(str(n) for n in shape)


def _retention(topic: Plan) -> str:
    if topic["compacted"]:
        return "compacted"
    return "broker's default" if topic["retention_ms"] is None else f"{topic['retention_ms'] / 3_600_000:g} h"


def _largest(topic: Plan) -> str:
    return "broker's default" if topic["max_message_bytes"] is None else mebibytes(topic["max_message_bytes"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell, and an empty line behind."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    yield ""
