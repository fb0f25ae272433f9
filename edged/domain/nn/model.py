"""A sequential model: the gradient of a mini-batch and the logits of samples, computed micro-batch by micro-batch.

Weights are passed to every call; the model holds only buffers, whose size does not depend on the mini-batch. It can be
computed in several lanes, for which the caller supplies the threads. See also: `domain.training.optim` (updates).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edged.domain.nn.backend import NUMPY, Backend
from edged.domain.nn.buffer import Array, buffer_bytes
from edged.domain.nn.dropout import DropoutLayer, Noise
from edged.domain.nn.layer import Layer
from edged.domain.nn.layers import make_layers
from edged.domain.nn.loss import loss_step
from edged.domain.nn.optimizer_steps import NUMPY_STEPS, OptimizerSteps
from edged.domain.nn.params import Params, initial_params, parameter_shapes
from edged.domain.nn.spec import LayerSpec, LossName, ShapeError, num_parameters, shapes

__all__ = ["Division", "Gradient", "Map", "Model", "Noise", "Params"]

_MAX_MICRO_BATCH = 32
_LANE_BYTES = 12 << 20
"""A lane's buffers. Above this, larger micro-batches only cost memory; below, the overhead of calls to numpy shows."""

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """`map`, or `concurrent.futures.Executor.map`: results in the order of the arguments."""

    def __call__(self, function: Callable[[T], R], arguments: Iterable[T], /) -> Iterator[R]: ...


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient of one mini-batch, and what its samples had to do with it.

    `grads`: the gradient of the mini-batch's mean (weighted) loss: views into the model's buffers, valid until its
    next call. `losses`: each sample's loss, without its weight, float32 [n]. `scores`: the norm of each loss's gradient
    with respect to the model's outputs, float32 [n]: an upper bound on the norm of the sample's whole gradient, up to a
    factor common to all samples (Katharopoulos and Fleuret 2018, https://arxiv.org/abs/1803.00942). `num_correct`:
    samples whose largest logit is their class's; 0 where there are no classes.
    """

    grads: Params
    losses: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    num_correct: int


@dataclass(frozen=True, slots=True)
class Division:
    """Who computes what of a mini-batch: its samples over `lanes`, a lane's in micro-batches, the layers by `backend`.

    It determines how and in which order numbers are summed, and so the last bits of the result.
    """

    lanes: int
    micro_batch: int
    backend: str = NUMPY


class Model:
    """A model of `layers` for samples of `sample_shape`.

    With `loss` cross_entropy, the last layer's outputs are the classes' logits and targets are classes, int64 [n]; with
    mean_squared_error, targets are the expected outputs, [n, outputs] of the model's dtype.

    `lanes` sets of buffers allow that many threads (`gradient`'s `map`). A mini-batch's samples are divided over the
    lanes and within a lane into micro-batches; sums are made in that fixed order. So the same lanes and micro-batch
    give the same bits on the same machine, whatever `map` does. Without `micro_batch`, a lane's buffers take about
    12 MiB, or the memory of one sample when that is more. `backend` computes the layers that it can, the reference the
    others, or all; see `divide`. One call at a time.

    Raises ShapeError when the layers do not fit the samples or each other, or do not end in one axis.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        layers: Sequence[LayerSpec],
        *,
        micro_batch: int | None = None,
        dtype: npt.DTypeLike = np.float32,
        lanes: int = 1,
        loss: LossName = "cross_entropy",
        backend: Backend | None = None,
    ) -> None:
        output = shapes(sample_shape, layers)[-1]
        if len(output) != 1:
            raise ShapeError(f"a model ends in one axis, not {output}; end it with flatten or dense")
        if not num_parameters(sample_shape, layers):
            raise ShapeError("a model without weights cannot be trained; add a dense layer")
        self.sample_shape, self._specs, self._dtype = sample_shape, tuple(layers), dtype
        self.num_outputs = output[0]
        self._loss = loss
        self._backends: dict[str, Backend | None] = {NUMPY: None}
        if backend is not None:
            self._backends[backend.name] = backend
        size = micro_batch or _fitting_micro_batch(sample_shape, layers, dtype, backend)
        self.own = Division(lanes, size, NUMPY if backend is None else backend.name)
        """The division that it was made with."""
        self._divide(self.own)

    def divide(self, division: Division) -> None:
        """Divide mini-batches like this from now on, by a backend it `has`; recreates all buffers if that is new."""
        if division != self._division:
            self._divide(division)

    def _divide(self, division: Division) -> None:
        backend = self._backends[division.backend]
        self._division = division
        self._lanes = [
            _Lane(self.sample_shape, self._specs, division.micro_batch, self._dtype, self._loss, backend)
            for _ in range(division.lanes)
        ]

    @property
    def division(self) -> Division:
        """How mini-batches are divided, and by what they are computed."""
        return self._division

    @property
    def optimizer_steps(self) -> OptimizerSteps:
        """Who computes the optimizer's steps: to the same bits, whatever the division."""
        backend = self._backends[self.own.backend]
        return NUMPY_STEPS if backend is None else backend.steps

    def has(self, backend: str) -> bool:
        """Whether the backend of this name is here: the reference always is."""
        return backend in self._backends

    @property
    def num_computed(self) -> int:
        """Samples computed since the division is this one, those of the call that is under way included: for others."""
        return sum(lane.num_computed for lane in self._lanes)

    @property
    def num_parameters(self) -> int:
        """The number of weights and biases."""
        return num_parameters(self.sample_shape, self._specs)

    @property
    def buffer_bytes(self) -> int:
        """Memory of all buffers, the gradients' included."""
        return sum(lane.buffer_bytes for lane in self._lanes)

    def initial(self, seed: int) -> Params:
        """Initial weights, a pure function of `seed`: see `params.initial_params`."""
        return initial_params(self.sample_shape, self._specs, seed, self._dtype)

    def gradient(
        self,
        params: Params,
        x: Array,
        y: Array,
        weights: Array | None = None,
        *,
        noise: Noise | None = None,
        map: Map = map,  # noqa: A002 - it replaces the builtin
    ) -> Gradient:
        """Gradient of the mean over the mini-batch of weight × loss.

        `x`: [n, *sample_shape] of the model's dtype, n >= 1; `y`: targets [n, …]; `weights`: [n], all one when None.
        `noise` determines what dropout drops; None: nothing. `map` runs the lanes: an Executor's spreads them over
        its threads; limit BLAS to one thread then.
        """
        n = len(x)
        losses, scores = np.empty(n, self._dtype), np.empty(n, self._dtype)
        scale = np.full((n, 1), 1 / n, self._dtype)
        if weights is not None:
            scale[:, 0] *= weights
        parts = self._parts(n)

        def run(lane: int) -> int:
            part = parts[lane]
            self._lanes[lane].set_noise(noise, part.start)
            return self._lanes[lane].run(params, x[part], y[part], scale[part], losses[part], scores[part])

        num_correct = sum(map(run, range(len(self._lanes))))
        grads = self._lanes[0].grads
        for lane in self._lanes[1:]:
            for name in grads:
                grads[name] += lane.grads[name]
        return Gradient(grads, losses, scores, num_correct)

    def logits(self, params: Params, x: Array, *, map: Map = map) -> Array:  # noqa: A002
        """The outputs for `x` [n, *sample_shape], any n, as a new array [n, outputs]; with cross_entropy, logits."""
        result = np.empty((len(x), self.num_outputs), self._dtype)
        parts = self._parts(len(x))

        def run(lane: int) -> None:
            self._lanes[lane].logits(params, x[parts[lane]], result[parts[lane]])

        list(map(run, range(len(self._lanes))))
        return result

    def _parts(self, n: int) -> list[slice]:
        """The lanes' parts of n samples."""
        bounds = [n * lane // len(self._lanes) for lane in range(len(self._lanes) + 1)]
        return [slice(*part) for part in pairwise(bounds)]


def _fitting_micro_batch(
    sample_shape: tuple[int, ...], specs: Sequence[LayerSpec], dtype: npt.DTypeLike, backend: Backend | None
) -> int:
    """The largest up to 32 whose buffers stay within _LANE_BYTES; every sample adds the same number of bytes."""
    one, two = (
        sum(map(buffer_bytes, make_layers(sample_shape, specs, micro_batch=n, dtype=dtype, backend=backend)))
        for n in (1, 2)
    )
    return min(max(_LANE_BYTES // max(two - one, 1), 1), _MAX_MICRO_BATCH)


class _Lane:
    """One thread's buffers: its layers and its sum of gradients."""

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        specs: Sequence[LayerSpec],
        micro_batch: int,
        dtype: npt.DTypeLike,
        loss: LossName,
        backend: Backend | None,
    ) -> None:
        self._micro_batch = micro_batch
        self._layers: list[Layer] = make_layers(
            sample_shape, specs, micro_batch=micro_batch, dtype=dtype, backend=backend
        )
        self._dropouts = [layer for layer in self._layers if isinstance(layer, DropoutLayer)]
        self._loss = (backend and backend.loss(loss, dtype)) or loss_step(loss)
        self._step = backend and backend.lane_step(self._layers, self._loss, micro_batch)
        self._noise: Noise | None = None
        self._first = 0
        self._num_computed = 0
        shapes = parameter_shapes(sample_shape, specs)
        self.grads: Params = {name: np.zeros(shape, dtype) for name, shape in shapes.items()}

    @property
    def buffer_bytes(self) -> int:
        grads = sum(grad.nbytes for grad in self.grads.values())
        return grads + sum(map(buffer_bytes, self._layers))

    @property
    def num_computed(self) -> int:
        """As of the model."""
        return self._num_computed + (self._step.num_computed if self._step else 0)

    def set_noise(self, noise: Noise | None, first: int) -> None:
        """Use `noise` in the next run, whose first sample is number `first` of the mini-batch."""
        self._noise, self._first = noise, first

    def run(self, params: Params, x: Array, y: Array, scale: Array, losses: Array, scores: Array) -> int:
        """Set `grads` to the sum of scale × gradient over the samples, fill in `losses` and `scores`.

        Returns the number of correctly classified samples.
        """
        for grad in self.grads.values():
            grad.fill(0)
        self._begin(params)
        if self._step:
            num_correct = self._step(x, y, scale, losses, scores, self.grads)
        else:
            num_correct = self._one_by_one(params, x, y, scale, losses, scores)
        for layer in self._layers:
            layer.end(self.grads)
        return num_correct

    def _one_by_one(self, params: Params, x: Array, y: Array, scale: Array, losses: Array, scores: Array) -> int:
        num_correct = 0
        for part in self._micro_batches(len(x)):
            self._num_computed += part.stop - part.start
            for dropout in self._dropouts:
                dropout.set_noise(self._noise, self._first + part.start)
            outputs = self._forward(params, x[part])
            doutputs, correct = self._loss(outputs, y[part], scale[part], losses[part], scores[part])
            num_correct += correct
            self._backward(params, doutputs)
        return num_correct

    def logits(self, params: Params, x: Array, result: Array) -> None:
        if not len(x):
            return
        for dropout in self._dropouts:
            dropout.set_noise(None, 0)
        self._begin(params)
        for part in self._micro_batches(len(x)):
            self._num_computed += part.stop - part.start
            result[part] = self._forward(params, x[part])

    def _micro_batches(self, n: int) -> Iterator[slice]:
        return (slice(start, min(start + self._micro_batch, n)) for start in range(0, n, self._micro_batch))

    def _begin(self, params: Params) -> None:
        for layer in self._layers:
            layer.begin(params)

    def _forward(self, params: Params, x: Array) -> Array:
        for layer in self._layers:
            x = layer.forward(params, x)
        return x

    def _backward(self, params: Params, doutputs: Array) -> None:
        dy: Array | None = doutputs
        for layer in reversed(self._layers):
            if dy is None:
                return
            dy = layer.backward(params, dy, self.grads)
