"""The model of how groups scale: the simulation and the paper agree, and costs are found again from what they made."""

import random

import pytest

from tests.bench.scale_model import designs, fitted, foreseen, measured
from tests.bench.scale_paper import Costs, Exchange, Machines, efficiency, max_edges, min_sync, payload_bytes, step
from tests.bench.scale_simulation import Clock, Station, step_s

COSTS = Costs(sample_s=1 / 700, gradient_s=0.002, exchange_s=0.01)


def test_a_station_serves_one_at_a_time_in_the_order_of_coming():
    clock, served = Clock(), []
    station = Station(clock)
    clock.after(1.0, lambda: station.serve(2.0, lambda: served.append(("first", clock.now))))
    clock.after(2.0, lambda: station.serve(0.5, lambda: served.append(("second", clock.now))))
    clock.after(9.0, lambda: station.serve(0.5, lambda: served.append(("third", clock.now))))
    clock.run()
    assert served == [("first", 3.0), ("second", 3.5), ("third", 9.5)]


@pytest.mark.parametrize("design", designs(4, 16), ids=lambda design: design.name)
@pytest.mark.parametrize("edges", [1, 4, 32])
@pytest.mark.parametrize(("link", "delay_s"), [(94e6, 0.0003), (20e6, 0.003), (20e6, 0.3)])
def test_the_simulation_without_jitter_takes_as_long_as_the_paper_says(design, edges, link, delay_s):
    machines = Machines(edges, link, brokers=design.brokers, delay_s=delay_s)
    exchange = Exchange(
        design.exchange.mode, 64 * edges, design.exchange.compression, design.exchange.sync_every,
        design.exchange.servers,
    )  # fmt: skip
    paper = step(machines, COSTS, exchange).seconds
    assert step_s(machines, COSTS, exchange, jitter=0.0) == pytest.approx(paper, rel=0.12)


@pytest.mark.parametrize("mode", ["all_reduce", "parameter_server"])
def test_jobs_take_turns_at_what_is_busiest(mode):
    machines, exchange = Machines(8, 20e6), Exchange(mode, 512)
    paper = step(machines, COSTS, exchange, jobs=6).seconds
    assert step_s(machines, COSTS, exchange, jobs=6, jitter=0.0) == pytest.approx(paper, rel=0.1)


def test_everybody_waits_for_the_slowest():
    machines, exchange = Machines(16, 94e6), Exchange("all_reduce", 4096, "top_k")
    costs = Costs(COSTS.sample_s, gradient_s=0.0, exchange_s=0.0)
    assert step_s(machines, costs, exchange, jitter=0.3) > 1.3 * step_s(machines, costs, exchange, jitter=0.0)


def test_the_brokers_link_carries_a_gradient_once_in_and_for_each_reader_out():
    size = payload_bytes("none")
    found = step(Machines(4, 94e6), COSTS, Exchange("all_reduce", 256))
    assert (found.broker_in_bytes, found.broker_out_bytes, found.edge_bytes) == (4 * size, 16 * size, 5 * size)
    served = step(Machines(4, 94e6), COSTS, Exchange("parameter_server", 256))
    assert (served.broker_in_bytes, served.broker_out_bytes, served.edge_bytes) == (5 * size, 8 * size, 2 * size)


def test_a_server_takes_over_where_all_that_all_read_is_too_much_for_the_broker():
    ratios = [
        step(Machines(n, 94e6), COSTS, Exchange("all_reduce", 64 * n)).seconds
        / step(Machines(n, 94e6), COSTS, Exchange("parameter_server", 64 * n)).seconds
        for n in (1, 8, 64, 512)
    ]
    assert ratios == sorted(ratios)
    assert ratios[0] < 1 < ratios[1]


@pytest.mark.parametrize("edges", [8, 64])
def test_the_shortest_rounds_are_just_long_enough(edges):
    machines, exchange = Machines(edges, 20e6), Exchange("parameter_server", 64 * edges, "int8")
    found = min_sync(0.9, machines, COSTS, exchange)
    assert found is not None

    def efficient(sync_every):
        rounds = Exchange("parameter_server", 64 * edges, "int8", sync_every)
        return efficiency(step(machines, COSTS, rounds), COSTS, machines, 64 * edges)

    assert efficient(found) >= 0.9 > efficient(found - 1)


def test_the_largest_group_is_still_efficient_and_one_of_twice_as_many_is_not():
    exchange = Exchange("parameter_server", 0, "int8", 16)
    most = max_edges(0.9, Machines(1, 94e6), COSTS, exchange, per_edge=64)

    def efficient(edges):
        machines = Machines(edges, 94e6)
        sized = Exchange("parameter_server", 64 * edges, "int8", 16)
        return efficiency(step(machines, COSTS, sized), COSTS, machines, 64 * edges)

    assert efficient(most) >= 0.9 > efficient(2 * most)


def run(mode, edges, seconds, link=94e6, delay_ms=0.3):
    setting = {
        "mode": mode, "edges": edges, "compression": "none", "sync_every": 1, "link": link, "delay_ms": delay_ms,
        "seed": 0,
    }  # fmt: skip
    epoch = {"samples": 512, "seconds": seconds, "link_bytes": 1e5}
    return {"setting": setting, "conditions": {"batch": 512, "cores": 0.2}, "epochs": [epoch, epoch]}


def test_costs_are_found_again_from_steps_that_they_made():
    chance = random.Random(0)  # noqa: S311 - no secret
    runs = [run("none", 1, 512 * COSTS.sample_s), run("ddp", 2, 1.0)]
    for link, delay_ms in ((94e6, 0.3), (20e6, 3.0)):
        for edges in (2, 4, 8):
            machines = Machines(edges, link, delay_s=delay_ms / 1e3)
            seconds = step(machines, COSTS, Exchange("all_reduce", 512)).seconds
            runs.append(run("all_reduce", edges, seconds * chance.uniform(0.99, 1.01), link, delay_ms))
    sample_s, groups = measured(runs)
    fit, held_out = foreseen(groups)
    assert {each.machines.edges for each in held_out} == {8}
    costs = fitted(sample_s, fit)
    assert costs.sample_s == pytest.approx(COSTS.sample_s)
    for each in held_out:
        assert step(each.machines, costs, each.exchange).seconds == pytest.approx(each.step_s, rel=0.05)


def test_without_an_edge_alone_nothing_says_what_a_sample_costs():
    with pytest.raises(ValueError, match="alone"):
        measured([run("all_reduce", 2, 1.0)])
