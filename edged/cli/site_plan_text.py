"""The plan of a site laid out for people: sentences and tables."""

from collections.abc import Iterator, Sequence

from edged.cli.site_plan import Plan
from edged.domain.counted import counted, plural
from edged.domain.nn.spec import shape_text
from edged.domain.topology.topics import UNTIL_ARCHIVED_MS
from edged.domain.validation.memory import mebibytes
from edged.domain.validation.writes import gigabytes


def plan_lines(plan: Plan) -> Iterator[str]:
    """The lines of `site_plan.plan_of`'s plan."""
    over = f"over {_brokers_text(plan)}"
    tier = plan.get("tier")
    if tier is None:
        yield f"{plan['site']}: {' → '.join(f'{len(plan[each])} {noun}' for each, noun in _nouns(plan))}, {over}"
    else:
        yield f"{plan['node']} is in tier {tier} of {plan['site']}, {over}; below is what concerns it"
    yield ""
    yield from _devices_text(plan["iot"], with_predictions=tier == "iot")
    if tier in {None, "edge"}:
        yield from _edges_text(plan["edges"])
    yield from _archive_text(plan["archive"], with_sources=tier == "archive")
    if "jobs" in plan:
        yield from _jobs_text(plan["jobs"])
    if "kernels" in plan:
        yield _kernels_text(plan["kernels"])
        yield ""
    for each in plan.get("not_installed", ()):
        yield f"on this machine, {each}"
        yield ""
    for group in plan["groups"]:
        yield from _group_text(group)
    yield from _table(
        ("topics", "retention", "largest message"),
        [[topic["name"], _retention(topic), _largest(topic)] for topic in plan["topics"]],
    )
    yield "valid"


def _brokers_text(plan: Plan) -> str:
    kafka = f"Kafka at {', '.join(plan['kafka']['bootstrap'])} ({plan['kafka']['protocol']})"
    if "mqtt" not in plan:
        return kafka
    mqtt = plan["mqtt"]
    return f"{kafka} and MQTT at {mqtt['broker']} ({'TLS' if mqtt['tls'] else 'unencrypted'})"


def _devices_text(devices: Sequence[Plan], *, with_predictions: bool) -> Iterator[str]:
    """With the topics that a device itself uses: of MQTT where it speaks that."""
    keys = ["edge", "stream", "codec", "topic", *(["predictions"] if with_predictions else [])]
    own = [device | device.get("mqtt", {}) for device in devices]
    if devices:
        yield from _table(["iot", *keys], [[_joined(device[key]) for key in ("name", *keys)] for device in own])


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
        yield _writes_text(edge)
        if edge["cache_index"]:
            yield _index_text(edge)
    yield ""


def _writes_text(edge: Plan) -> str:
    """With the companion's; what is written at the end of live training's epochs depends on how many samples come."""
    writes = edge["writes_per_year"]
    terms = " + ".join(f"{part} {gigabytes(size)}" for part, size in writes.items() if part != "total" and size)
    text = f"written to {edge['name']}'s disk in a year, at most: {terms} = {gigabytes(writes['total'])}"
    per_epoch = edge["writes_per_epoch"]
    return f"{text}; {mebibytes(per_epoch)} an epoch" if per_epoch else text


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
        if others := archive.get("shared_with"):
            yield f"shares sources and requests with {', '.join(others)}; each takes over what another leaves"
        yield f"memory of {archive['name']}: {_sum(archive['memory'])}"
        log = gigabytes(archive["writes_per_year"]["log"])
        yield f"written to {archive['name']}'s disk in a year, at most: log {log}, beside the archive itself"
        yield ""
        if with_sources:
            keys = ("edge", "stream", "topic")
            yield from _table(("from", *keys[1:]), [[source[key] for key in keys] for source in archive["sources"]])


def _nouns(plan: Plan) -> list[tuple[str, str]]:
    nouns = (("iot", "device"), ("edges", "edge"), ("archive", "archive"))
    return [(tier, noun if len(plan[tier]) == 1 else plural(noun)) for tier, noun in nouns]


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
        features = shape_text(model["input"])
        yield f"frozen: {shape_text(backbone['input'])} → {features} features, on which the model is trained"
        yield ""
    rows = [["input", shape_text(model["input"]), ""]]
    rows += [[layer["layer"], shape_text(layer["output"]), f"{layer['parameters']:,}"] for layer in model["layers"]]
    rows.append(["together", "", f"{model['parameters']:,}"])
    yield from _table(("model", "output", "parameters"), rows)
    job = f"{counted(model['epochs'], 'epoch')} in batches of {model['global_batch']}"
    yield f"trained on {model['stream']} (source: {model['source']}), {job}"
    yield f"steps: {model['steps']}"
    yield f"memory of the model: {_sum(model['memory'])}"
    yield ""


def _kernels_text(kernels: Plan) -> str:
    if instructions := kernels["instructions"]:
        jobs = kernels["numpy_jobs"]
        but = f", those of {' and '.join(jobs)} by numpy: training.kernels says so" if jobs else ""
        better = "".join(f"\nnot by better ones: {reason}" for reason in kernels["left_out"])
        return f"on this machine, layers are computed by compiled kernels ({instructions}){but}{better}"
    return f"on this machine, layers are computed by numpy: {kernels['reason']}"


def _group_text(group: Plan) -> Iterator[str]:
    often = f" every {counted(group['sync_every'], 'step')}" if group["sync_every"] > 1 else ""
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


def _retention(topic: Plan) -> str:
    if topic["compacted"]:
        return "compacted"
    if topic["retention_ms"] is None:
        return "broker's default"
    return "unlimited" if topic["retention_ms"] == UNTIL_ARCHIVED_MS else f"{topic['retention_ms'] / 3_600_000:g} h"


def _largest(topic: Plan) -> str:
    return "broker's default" if topic["max_message_bytes"] is None else mebibytes(topic["max_message_bytes"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell, and an empty line after them."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    yield ""
