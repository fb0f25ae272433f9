"""What `edged check` says that lanes hold, against the buffers of the models of config/."""

from dataclasses import replace
from pathlib import Path

import pytest

from edged.domain.nn.micro_batch import MAX_LANE_BYTES, SIZES
from edged.domain.nn.model import Model
from edged.domain.topology import MIB, Kernels
from edged.domain.validation.memory import LANES, training_memory
from edged.topology_file import inspect
from tests.support.examples import EXAMPLES
from tests.support.kernels import required_kernels

CONFIG = Path(__file__).parents[3] / "config"


@pytest.mark.parametrize("kernels", ["auto", "numpy"])
@pytest.mark.parametrize("file", EXAMPLES)
def test_the_examples_lanes_hold_no_more_than_is_said_and_not_much_less(file: str, kernels: Kernels):
    """With the largest micro-batch that may be chosen."""
    topology = inspect(CONFIG / file, lenient=True).topology
    backend = None if kernels == "numpy" else required_kernels()
    for job in topology.jobs:
        stream = topology.stream(job.stream)
        shape, memory = job.input_shape(stream), training_memory(replace(job, kernels=kernels), stream)
        assert shape is not None
        assert memory is not None

        def lane(size: int, job=job, shape=shape) -> int:
            return Model(shape, job.model, micro_batch=size, loss=job.loss, backend=backend).buffer_bytes

        allowed = [size for size in SIZES if size <= job.global_batch // LANES]
        most = max(held for held in map(lane, allowed) if held <= MAX_LANE_BYTES)
        assert most <= memory.lanes / LANES <= 2 * most + MIB
