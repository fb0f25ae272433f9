"""Jobs that edges train together."""

from dataclasses import replace

import pytest

from edged.domain.nn.spec import Dense
from edged.domain.topology import (
    MAX_MEMBERS,
    Archive,
    Constant,
    Device,
    Edge,
    Exchange,
    Kafka,
    Outer,
    Sampling,
    Stream,
    Topology,
    Training,
)
from edged.domain.validation import group, rules

EDGES = (Edge("pi-a"), Edge("pi-b"))
ALL_REDUCE = Exchange("all_reduce")
IMPORTANCE = (
    "importance draws by what one edge's cache holds or has learnt, while a group draws one order for all its members"
)
JOB = Training("climate", (Dense(2),), sampling=Sampling("uniform"), exchange=ALL_REDUCE)


def site(edges=EDGES, **changes) -> Topology:
    return Topology(
        site="lab",
        kafka=Kafka(("localhost:9092",)),
        streams=(Stream("climate", (6,), "float32", ("calm", "storm")),),
        iot=tuple(Device(f"mast-{edge.name}", edge.name, "climate") for edge in edges),
        edges=edges,
        archive=(Archive("vault", "file:///srv/edged"),),
        jobs=(replace(JOB, **changes),),
    )


@pytest.mark.parametrize(
    "topology",
    [
        site(),
        site(edges=EDGES[:1]),
        site(exchange=Exchange("parameter_server")),
        site(exchange=Exchange("parameter_server", server="vault")),
        site(exchange=Exchange("parameter_server", server="pi-b")),
        site(exchange=Exchange("all_reduce", "top_k", top_k=0.1)),
        site(exchange=Exchange("all_reduce", "int8", sync_every=16, outer=Outer(0.5, 0.8))),
        site(exchange=Exchange(), sampling=Sampling("stratified"), source="both"),
        site(edges=tuple(Edge(f"pi-{n}") for n in range(MAX_MEMBERS))),
    ],
)
def test_a_group_that_can_work_is_accepted(topology):
    assert rules.problems(topology) == []
    assert rules.warnings(topology) == []


@pytest.mark.parametrize(
    ("changes", "path", "message", "suggestion"),
    [
        (
            {"source": "both"},
            "source",
            "a group shares out epochs that the archive streams; both trains on what only one edge has",
            "set source: archive, or exchange: {mode: none}",
        ),
        (
            {"sampling": Sampling("importance")},
            "sampling.mode",
            IMPORTANCE,
            "set mode: uniform, or leave it out",
        ),
        (
            {"edges": tuple(Edge(f"pi-{n}") for n in range(MAX_MEMBERS + 1))},
            "exchange.mode",
            "65 edges; at most 64 train one model together",
            "set mode: none, or describe them as several sites",
        ),
        (
            {"exchange": Exchange("parameter_server", server="valut")},
            "exchange.server",
            'no edge and no archive is called "valut"',
            'did you mean "vault"?',
        ),
        (
            {"exchange": Exchange("parameter_server", server="nobody")},
            "exchange.server",
            'no edge and no archive is called "nobody"',
            "known: vault, pi-a, pi-b",
        ),
        (
            {"exchange": Exchange("all_reduce", server="vault")},
            "exchange.server",
            "mode: all_reduce does not use it",
            "leave it out, or set mode: parameter_server",
        ),
        (
            {"exchange": Exchange("all_reduce", "int8", top_k=0.1)},
            "exchange.top_k",
            "compression: int8 does not use it",
            "leave it out, or set compression: top_k",
        ),
        (
            {"exchange": Exchange("all_reduce", outer=Outer(momentum=0.5))},
            "exchange.outer",
            "with sync_every: 1 each step is the group's, and the optimizer makes it",
            "leave it out, or set sync_every above 1",
        ),
    ],
)
def test_what_a_group_cannot_do_is_refused_with_a_suggestion(changes, path, message, suggestion):
    [finding] = rules.problems(site(**changes))

    assert finding[:3] == (f"training[0].{path}", message, suggestion)


@pytest.mark.parametrize(
    "settings",
    [{"compression": "int8"}, {"top_k": 0.1}, {"sync_every": 2}, {"outer": Outer(0.1)}, {"server": "vault"}],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_an_exchange_are_refused_without_one(settings):
    [finding] = rules.problems(site(exchange=Exchange(**settings)))

    assert finding.path == f"training[0].exchange.{next(iter(settings))}"
    assert finding.message == "mode: none does not use it"


def test_a_scaled_learning_rate_without_a_warm_up_is_a_warning():
    [finding] = group.warnings(site(global_batch=512, reference_batch=128))

    assert finding.path == "training[0].reference_batch"
    assert finding.message == "the learning rate is 4 times as large from the first step on"
    assert not [*group.warnings(site(global_batch=512, reference_batch=128, schedule=Constant(warmup=1)))]
    assert not [*group.warnings(site(global_batch=64, reference_batch=128))]


def test_a_batch_of_fewer_samples_than_edges_is_a_warning():
    [finding] = group.warnings(site(global_batch=1))

    assert finding[:2] == ("training[0].global_batch", "2 edges share a batch of 1: in each step some have no sample")
