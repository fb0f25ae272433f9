"""The memory that a topology needs on an edge, against sums done by hand."""

from dataclasses import replace

import pytest

from edged.domain.nn.micro_batch import MAX_LANE_BYTES
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, Relu
from edged.domain.topology import MIB, Archive, Cache, Device, Edge, Exchange, Kafka, Mqtt, Stream, Topology, Training
from edged.domain.validation import memory as budget

EDGES = (Edge("pi"), Edge("pi-b"), Edge("pi-c"))
TRAINING = Training("readings", (Dense(4),))


def site(*jobs: Training) -> Topology:
    return Topology("lab", Kafka(()), (), (), EDGES, (Archive("vault", "file:///x"),), jobs)


def memory_of(job: Training = TRAINING, shape: tuple[int, ...] = (4,)) -> budget.ModelMemory:
    memory = budget.training_memory(job, Stream(job.stream, shape, "float32"))
    assert memory is not None
    return memory


def test_a_models_memory_is_its_weights_its_optimizers_state_its_lanes_and_two_mini_batches():
    layers = (Flatten(), Dense(4), Relu())
    memory = memory_of(replace(TRAINING, model=layers, global_batch=10, micro_batch=3), (2, 3, 1))

    parameters = 6 * 4 + 4
    assert (memory.parameters, memory.weights) == (parameters, parameters * 4)
    assert memory.optimizer == memory.slots * parameters * 4
    assert memory.batches == 2 * 10 * 6 * 4
    assert memory.lanes == 4 * (2 * parameters * 4 + 3 * 3 * (4 + 4) * 4)  # flatten is a view of the input
    assert memory.total == memory.weights + memory.optimizer + memory.lanes + memory.batches


def test_what_is_pooled_as_it_is_computed_is_not_held():
    def lanes(*between: Relu) -> int:
        layers: tuple[LayerSpec, ...] = (Conv2d(8, (3, 3)), *between, MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(4))
        return memory_of(replace(TRAINING, model=layers), (8, 8, 1)).lanes

    assert lanes(Relu()) - lanes() == 4 * 32 * 3 * 6 * 6 * 8 * 4


def test_a_mini_batchs_size_changes_what_lanes_hold_until_a_lane_is_full():
    def lanes(batch: int) -> int:
        return memory_of(replace(TRAINING, model=(Dense(2000), Dense(4)), global_batch=batch)).lanes

    assert lanes(8) < lanes(64) < lanes(256) == lanes(100_000)
    huge = memory_of(replace(TRAINING, model=(Conv2d(64, (3, 3)), Relu(), Flatten(), Dense(4))), (512, 512, 1))
    assert huge.lanes > 4 * MAX_LANE_BYTES  # the smallest micro-batch is taken whatever it needs


def test_an_edges_budget_is_the_sum_of_its_parts():
    memory = memory_of()
    edge = Edge("pi", Cache(memory=10 * MIB), prefetch=5 * MIB, memory_limit=200 * MIB)

    whole = budget.edge_budget(site(TRAINING), edge, [memory])

    assert whole.total == budget.BASE + memory.total + 15 * MIB + budget.DISK_STORE
    assert whole.limit == 200 * MIB
    assert budget.edge_budget(site(), edge, []).model == 0
    without_disk = Edge("pi", Cache(memory=10 * MIB, disk=0), prefetch=5 * MIB)
    assert budget.edge_budget(site(), without_disk, []).total == budget.BASE + 15 * MIB


@pytest.mark.parametrize(
    ("exchange", "node", "copies"),
    [
        (Exchange(), "pi", 0),
        (Exchange("all_reduce"), "pi", 2 * 3),
        (Exchange("all_reduce", sync_every=8), "pi", 2 * 3 + 2),
        (Exchange("parameter_server"), "pi", 2),
        (Exchange("parameter_server", sync_every=8), "vault", 2 * 3),
        (Exchange("parameter_server", server="pi"), "pi", 2 * 3 + 2),
    ],
)
def test_the_node_that_combines_gradients_holds_those_of_all_members(exchange, node, copies):
    memory = memory_of()
    topology = site(replace(TRAINING, exchange=exchange))

    assert budget.exchange_memory(topology, topology.jobs[0], node, memory) == copies * memory.parameters * 4


def test_the_exchange_is_part_of_an_edges_budget():
    memory = memory_of()
    topology = site(replace(TRAINING, exchange=Exchange("all_reduce")))

    alone, together = (budget.edge_budget(each, EDGES[0], [memory]) for each in (site(TRAINING), topology))
    assert together.total - alone.total == together.parts["exchange"] == 6 * memory.parameters * 4
    assert "exchange" not in alone.parts


def test_packets_that_are_not_in_kafka_are_part_of_the_budget_of_the_edge_that_takes_them():
    devices = tuple(Device(f"cam-{i}", "pi", "readings", transport="mqtt") for i in range(3))
    topology = replace(site(), iot=(*devices, Device("other", "pi", "readings"), Device("north", "pi-b", "readings")))
    with_broker = replace(topology, mqtt=Mqtt("b", packet_bytes=64 * 1024, window=8))

    parts = [budget.edge_budget(with_broker, edge, []).parts for edge in EDGES[:2]]
    assert parts[0]["mqtt"] == 3 * (8 * 64 * 1024 + 8 * 64 * 1024)  # of QoS 1, and of QoS 0
    assert "mqtt" not in parts[1]
    alone, together = (budget.edge_budget(each, EDGES[0], []).total for each in (topology, with_broker))
    assert together - alone == parts[0]["mqtt"]


def test_ids_that_are_texts_are_part_of_the_budget():
    devices = [Device("cam", "pi", "readings", transport="mqtt", id=each) for each in ("counter", "text")]
    counter, text = (
        budget.mqtt_memory(replace(site(), iot=(each,), mqtt=Mqtt("b", packet_bytes=1024, window=1)), "pi")
        for each in devices
    )
    assert (counter, text - counter) == (1024 + 64 * 1024, 4 * MIB)


def test_a_caches_index_grows_with_the_samples_that_it_holds():
    cache = Cache(memory=MIB, disk=9 * MIB)
    assert budget.cache_index(cache, 784, "stratified") == 10 * MIB // 1040 * 64
    assert budget.cache_index(cache, 784, "uniform") > budget.cache_index(cache, 784, "stratified")
    assert budget.cache_index(Cache(0, 0), 784, "uniform") == 0


@pytest.mark.parametrize(("num_bytes", "text"), [(0, "0.0 MiB"), (MIB * 3 // 2, "1.5 MiB"), (2048 * MIB, "2048.0 MiB")])
def test_mebibytes_are_shown_to_a_tenth(num_bytes, text):
    assert budget.mebibytes(num_bytes) == text
