"""The figures of a run, counted from the archive's files, the predictions topic and the group's log.

Only speeds and memory come from the processes' own logs.
"""

from collections.abc import Sequence
from statistics import fmean

from edged.cli.demo import report
from edged.cli.demo.group import Group, fold
from edged.cli.demo.observer import Observer, archived_samples
from edged.cli.demo.outage import Outage
from edged.cli.demo.receivers import Receivers
from edged.cli.demo.site import Site
from edged.domain.samples.prediction import Prediction


async def summary(
    site: Site,
    observer: Observer,
    predictions: Sequence[Prediction],
    receivers: Receivers | None,
    outage: Outage | None,
    wall_s: float,
) -> report.Summary:
    """The figures of a run whose processes have ended."""
    samples = list(archived_samples(site.topology))
    epochs = [site.child("run", edge).seen("train.epoch") for edge in site.edges]
    group: Group | None = None
    if len(site.edges) > 1:
        group = await fold(observer.log, site.topology, site.state_folders, outage)
        # All log the same, but the one that was killed does not know how long its epochs took.
        lived = next(edge for edge in site.edges if outage is None or edge != outage.edge)
        epochs = [site.child("run", lived).seen("train.epoch")]
    lines = [line for of_edge in epochs for line in of_edge]
    blocked = [line["blocked_fraction"] for line in lines]
    nodes = [site.child("run", edge) for edge in site.edges]
    newest = [[*node.seen("train.started"), *node.seen("train.backend")][-1:] for node in nodes]
    refused = [line for node in nodes for line in node.seen("kernels.unavailable")]
    archived, archived_twice = report.distinct((each.device, each.partition, each.offset) for each in samples)
    predicted, predicted_twice = report.distinct(each.identity for each in predictions)
    label_of = {(each.device, each.partition, each.offset): each.label for each in samples}
    right = [label_of.get((each.device, each.partition, each.offset)) == each.label for each in predictions]
    latencies = [each.latency_ms for each in predictions if each.latency_ms is not None]
    ends = {child.name: child.seen("life.stopped") for child in site.children}
    accuracies = [of_edge[-1].get("test_accuracy") for of_edge in epochs]
    sensors = [child for child in site.children if child.name.startswith("sensor ")]
    return report.Summary(
        edges=len(site.edges),
        test_accuracy=min((each for each in accuracies if each is not None), default=None),
        samples_per_s=sum(fmean(line["samples_per_s"] for line in of_edge) for of_edge in epochs),
        data_wait_fraction=fmean(line["wait_fraction"] for line in lines),
        blocked_fraction=None if None in blocked else fmean(blocked),
        backend=", ".join(sorted({line["backend"] for of_node in newest for line in of_node})),
        no_kernels=next((line["reason"] for line in refused), None),
        peak_rss_mib={name: end[-1]["peak_rss_bytes"] / 2**20 for name, end in ends.items() if end},
        published=sum(sensor.seen("sensor.published")[-1]["samples"] for sensor in sensors),
        archived=archived,
        archived_twice=archived_twice,
        predicted=predicted,
        predicted_twice=predicted_twice,
        dead_lettered=await observer.num_dead_letters(site.edges),
        prediction_p50_ms=report.percentile(latencies, 50),
        prediction_p99_ms=report.percentile(latencies, 99),
        way_back=_way_back(receivers),
        live_accuracy=fmean(right) if right else None,
        epochs=site.options.epochs,
        trained_samples=sum(line["samples"] for line in lines),
        import_samples=site.num_imported,
        wall_s=wall_s,
        group=group,
    )


def _way_back(receivers: Receivers | None) -> report.WayBack | None:
    if receivers is None:
        return None
    delivered, twice = report.distinct(receivers.identities)
    p50_ms, p99_ms = (report.percentile(receivers.latencies_ms, share) for share in (50, 99))
    return report.WayBack(delivered, twice, p50_ms, p99_ms)
