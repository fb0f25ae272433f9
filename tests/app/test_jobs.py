"""The jobs of an edge, composed with an in-memory log."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.lane_clock import ScriptedLaneClock
from edged.adapters.memory.log import MemoryLog
from edged.app.group import servers
from edged.app.jobs import open_jobs
from edged.domain.nn.spec import Dense
from edged.domain.topology import (
    MIB,
    Archive,
    Cache,
    Device,
    Edge,
    Exchange,
    Kafka,
    Sampling,
    Stream,
    Topology,
    Training,
)
from edged.services.group.trainer import GroupTrainer
from edged.services.training.trainer import Trainer
from edged.settings import Folders, Timing, TopologyInUse
from tests.support.other_backend import OtherBackend

MODEL = (Dense(2),)
SMALL = Training("tiles", MODEL, micro_batch=1, name="small")
LARGE = Training("tiles", MODEL, micro_batch=1, name="large", source="both")
LIVE = Training("climate", MODEL, micro_batch=1, name="live", source="live")
SHARED = Training(
    "tiles", MODEL, micro_batch=1, exchange=Exchange("parameter_server"), sampling=Sampling("uniform"), name="shared"
)
SITE = Topology(
    site="lab",
    kafka=Kafka(("localhost:9092",)),
    streams=(Stream("tiles", (4,), "uint8", ("x", "y")), Stream("climate", (6,), "float32", ("x", "y"))),
    iot=(Device("cam", "pi-a", "tiles"), Device("mast", "pi-b", "climate")),
    edges=(Edge("pi-a", Cache(MIB, 4 * MIB)), Edge("pi-b")),
    archive=(Archive("vault", "file:///srv"),),
)


@pytest.fixture
def opened(tmp_path):
    """Opens the jobs at an edge."""

    @asynccontextmanager
    async def open_at(edge, *jobs, backend=None):
        topology = replace(SITE, jobs=jobs)
        folders = Folders(tmp_path / "state", tmp_path / "cache")
        with ThreadPoolExecutor(1) as executor:
            async with open_jobs(
                topology.resolved_jobs(edge),
                TopologyInUse(topology),
                topology.edge(edge),
                MemoryLog(),
                RecordingHealth(),
                Timing(),
                folders,
                executor,
                ScriptedLaneClock(),
                backend,
            ) as edge_jobs:
                yield edge_jobs

    return open_at


async def test_each_job_has_a_trainer_by_its_name(opened):
    async with opened("pi-a", SMALL, SHARED) as (trainers, _):
        assert {name: type(trainer) for name, trainer in trainers.items()} == {
            "trainer:small": Trainer,
            "trainer:shared": GroupTrainer,
        }


async def test_a_job_without_a_name_has_a_trainer_without_one(opened):
    async with opened("pi-a", Training("tiles", MODEL, micro_batch=1)) as (trainers, _):
        assert list(trainers) == ["trainer"]


async def test_the_kernels_compute_the_jobs_that_do_not_ask_for_numpy(opened):
    async with opened("pi-a", SMALL, replace(SHARED, kernels="numpy"), backend=OtherBackend()) as (trainers, _):
        backends = {name: trainer.state.division.backend for name, trainer in trainers.items()}
    assert backends == {"trainer:small": "other/1", "trainer:shared": "numpy"}


async def test_each_job_of_live_samples_has_a_window_of_its_own(opened):
    second = Training("tiles", MODEL, micro_batch=1, name="second", source="live")
    async with opened("pi-a", SMALL, LARGE, second) as (_, live_windows):
        assert {stream: len(windows) for stream, windows in live_windows.items()} == {"tiles": 2}


async def test_a_stream_that_the_edge_does_not_sample_yet_has_a_window_too(opened):
    async with opened("pi-a", LIVE) as (_, live_windows):
        assert live_windows["climate"][0].end() is None


@pytest.mark.parametrize(
    ("jobs", "folders"),
    [
        ((SMALL, LARGE), {"."}),
        ((SMALL, Training("climate", MODEL, micro_batch=1, name="c")), {"streams/tiles", "streams/climate"}),
        ((LIVE,), set()),
    ],
    ids=["one stream", "two streams", "live alone"],
)
async def test_each_stream_from_the_archive_has_one_cache(opened, tmp_path, jobs, folders):
    async with opened("pi-a", *jobs):
        files = {path.parent.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*.*")}

    assert files == folders


def test_a_node_runs_a_parameter_server_for_each_job_that_names_it():
    topology = replace(SITE, jobs=(SMALL, SHARED))

    assert list(servers(topology.resolved_jobs("vault"), "vault", MemoryLog(), Timing())) == ["server:shared"]
    assert list(servers(topology.resolved_jobs("pi-a"), "pi-a", MemoryLog(), Timing())) == []
