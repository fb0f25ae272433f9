"""What a node writes in a year, as projected from its topology."""

from dataclasses import replace

import pytest

from edged.domain.topology import MIB, Archive, Cache, Device, Exchange, LogSettings
from edged.domain.validation.memory import training_memory
from edged.domain.validation.writes import archive_writes, edge_writes, journal_bytes
from tests.support.valid_topology import VALID, with_edge, with_training

YEAR_S = 365 * 86_400


def writes(topology, line_s=60.0):
    models = [training_memory(job, topology.stream(job.stream)) for job in topology.jobs]
    return edge_writes(topology, topology.edges[0], models, line_s)


@pytest.mark.parametrize(("every_s", "kb_per_30_s"), [(60, 32), (30, 64), (10, 106), (5, 147), (1, 307)])
def test_the_journals_part_is_within_a_fifth_of_what_was_measured(every_s, kb_per_30_s):
    assert journal_bytes(1 / every_s) * 30 / YEAR_S == pytest.approx(kb_per_30_s * 1000, rel=0.2)


def test_it_is_the_sum_of_its_parts():
    found = writes(VALID)

    assert found.total == found.log + found.checkpoints + found.epochs + found.cache
    assert found.cache == 365 * 8192 * MIB
    assert found.epochs == 10 * found.per_epoch


def test_a_cache_writes_as_much_as_it_may_where_it_is_on_a_disk_and_of_the_archive():
    assert writes(with_edge(cache=Cache(disk_writes_per_day=MIB))).cache == 365 * MIB
    assert writes(with_edge(cache=Cache(disk=0))).cache == 0
    assert writes(with_training(source="live")).cache == 0


def test_checkpoints_follow_their_interval_their_optimizer_and_the_group():
    usual = writes(VALID).checkpoints

    assert writes(with_training(checkpoint_s=600.0)).checkpoints == pytest.approx(usual / 2)
    assert writes(with_training(exchange=Exchange("all_reduce"))).checkpoints > usual
    assert writes(replace(VALID, jobs=())).checkpoints == 0


def test_live_training_has_no_number_of_epochs():
    found = writes(with_training(source="live"))

    assert (found.epochs, found.per_epoch) == (0, writes(VALID).per_epoch)


def test_the_log_follows_its_interval_and_needs_no_companion_without_a_job():
    often = replace(VALID, log=LogSettings(resources_s=1.0))

    assert writes(VALID, line_s=10.0).log > writes(VALID).log
    assert writes(often).log > writes(VALID, line_s=10.0).log
    assert writes(replace(VALID, jobs=())).log < writes(VALID).log


def test_an_archives_log_tells_of_each_sources_files():
    seldom = Archive("vault", "file:///srv/edged", flush_s=3600.0)
    more = replace(VALID, iot=(*VALID.iot, Device("cam-2", "pi-b", "tiles")))

    assert archive_writes(VALID, seldom, 60.0) < archive_writes(VALID, VALID.archive[0], 60.0)
    assert archive_writes(VALID, replace(seldom, flush_s=60.0), 60.0) == archive_writes(VALID, VALID.archive[0], 60.0)
    assert archive_writes(more, seldom, 60.0) > archive_writes(VALID, seldom, 60.0)
