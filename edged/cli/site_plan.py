"""What a topology comes to, as JSON values: nodes, memory, jobs, groups, topics; for one node, only its part."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from edged.domain.mqtt import topics as mqtt_topics
from edged.domain.nn.spec import LayerSpec, shape_text, shapes
from edged.domain.topology import Archive, Augment, Backbone, Device, Edge, Exchange, Mqtt, Topology, Training
from edged.domain.topology.topics import grants, prediction_topics, topics
from edged.domain.training.schedule import batch_factor
from edged.domain.validation.memory import archive_memory, cache_index, edge_budget, exchange_memory, training_memory
from edged.domain.validation.nodes import sample_bytes
from edged.domain.validation.writes import SERVICE_LINES_S, archive_writes, edge_writes

Plan = dict[str, Any]


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
        **({"mqtt": _mqtt(topology.mqtt)} if topology.mqtt and any(_is_mqtt(each) for each in devices) else {}),
        "iot": [_device(topology, device) for device in devices],
        "edges": [_edge(topology, edge) if trains else {"name": edge.name} for edge in edges],
        "archive": [
            {
                "name": archive.name,
                "url": archive.url,
                "memory": _archive_memory(topology, archive),
                "sources": _sources(topology),
                **_others(topology, archive),
                "writes_per_year": {"log": archive_writes(topology, archive, SERVICE_LINES_S)},
            }
            for archive in topology.archive
            if node in {None, archive.name}
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


def _others(topology: Topology, archive: Archive) -> Plan:
    """Those archive nodes that it shares the work with, if any."""
    others = [each.name for each in topology.archive if each.name != archive.name]
    return {"shared_with": others} if others else {}


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
        "transport": device.transport,
        "topic": topology.device_topic(device.name),
        "predictions": prediction_topics(topology, device.edge),
        **(_over_mqtt(topology, device) if _is_mqtt(device) else {}),
    }


def _is_mqtt(device: Device) -> bool:
    return device.transport == "mqtt"


def _over_mqtt(topology: Topology, device: Device) -> Plan:
    """The MQTT topics of a device: its edge publishes all that it sends to its topic in Kafka, and the way back."""
    return {
        "mqtt": {
            "topic": mqtt_topics.samples_topic(topology.site, device.name),
            "predictions": mqtt_topics.predictions_topic(topology.site, device.name),
            **({"receipts": mqtt_topics.receipts_topic(topology.site, device.name)} if device.receipts else {}),
            "id": device.id,
        }
    }


def _mqtt(mqtt: Mqtt) -> Plan:
    return {
        "broker": f"{mqtt.host}:{mqtt.port}",
        "tls": mqtt.tls is not None,
        "packet_bytes": mqtt.packet_bytes,
        "window": mqtt.window,
    }


def _edge(topology: Topology, edge: Edge) -> Plan:
    models = [training_memory(job, topology.stream(job.stream)) for job in topology.jobs]
    budget = edge_budget(topology, edge, models)
    writes = edge_writes(topology, edge, models, SERVICE_LINES_S)
    return {
        "name": edge.name,
        "rank": topology.edges.index(edge),
        "devices": [device.name for device in topology.devices_of(edge.name)],
        "memory": {**budget.parts, "total": budget.total, "limit": budget.limit},
        "disk_cache": edge.cache.disk,
        "writes_per_year": {**writes.parts, "total": writes.total},
        "writes_per_epoch": writes.per_epoch,
        "cache_index": _cache_index(topology, edge),
    }


def _archive_memory(topology: Topology, archive: Archive) -> Plan:
    parts = archive_memory(topology, archive)
    return {**parts, "total": sum(parts.values())}


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
            "lanes": memory.lanes,
            "batches": memory.batches,
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
            words += [setting.name, shape_text(value) if isinstance(value, tuple) else str(value)]
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
