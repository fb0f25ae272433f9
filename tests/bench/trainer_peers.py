# mypy: ignore-errors
# ruff: noqa: PLC0415, T201 - each peer lives in a Python environment of its own, and answers on its standard output
"""One trainer in one process, told by its standard input how many samples to train and answering how long it took.

Started by `trainer.py`: python trainer_peers.py PEER NET THREADS BATCH. Each line in is a number of samples, each line
out a JSON object. Needs numpy and the peer's own library, nothing else.
"""

import gzip
import json
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
LEARNING_RATE, MOMENTUM = 0.05, 0.9

# (kind, *settings). Convolutions and depthwise: (…, kernel, stride, padding), followed by ReLU.
NETS = {
    "fashion": (
        (28, 28, 1),
        [("conv", 32, 3, 1, "valid"), ("pool",), ("conv", 64, 3, 1, "valid"), ("pool",), ("flatten",), ("dense", 10)],
    ),
    "depthwise": (
        (64, 64, 3),
        [
            ("conv", 16, 3, 2, "same"), ("depthwise", 3, 1, "same"), ("conv", 32, 1, 1, "valid"),
            ("depthwise", 3, 2, "same"), ("conv", 64, 1, 1, "valid"), ("mean",), ("dense", 10),
        ],
    ),
    "series": (
        (128, 6),
        [
            ("conv", 32, 5, 1, "valid"), ("pool",), ("conv", 64, 5, 1, "valid"), ("pool",), ("flatten",), ("dense", 10),
        ],
    ),
}  # fmt: skip


def read_samples(net, num=60_000):
    """Samples as uint8 and classes: the whole of Fashion-MNIST, or noise of another net's shape."""
    shape, _ = NETS[net]
    if net != "fashion":
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (num // 10, *shape), np.uint8), rng.integers(0, 10, num // 10)
    with gzip.open(FASHION_MNIST / "train-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, *shape)
    with gzip.open(FASHION_MNIST / "train-labels-idx1-ubyte.gz") as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return x, y


class Batches:
    """Mini-batches without end: each epoch in an order of its own, as uint8."""

    def __init__(self, net, size):
        self._x, self._y = read_samples(net)
        self._size, self._rng, self._order = size, np.random.default_rng(0), []

    def next(self):
        if len(self._order) < self._size:
            self._order = self._rng.permutation(len(self._x))
        rows, self._order = self._order[: self._size], self._order[self._size :]
        return self._x[rows], self._y[rows]


class Edged:
    def __init__(self, net, threads, batch):
        from threadpoolctl import threadpool_limits

        from edged.adapters.host import micro_batch
        from edged.domain.nn.model import Model
        from edged.domain.topology import Sgd
        from edged.domain.training import optim

        threadpool_limits(1, user_api="blas")
        shape, described = NETS[net]
        layers = [edged_layer(len(shape), *layer) for layer in described]
        size = micro_batch.measure(shape, layers, -(-batch // threads))
        self._model = Model(shape, layers, lanes=threads, micro_batch=size)
        self._params = self._model.initial(0)
        self._sgd, self._update = Sgd(LEARNING_RATE, MOMENTUM), optim.update
        self._slots = optim.initial_slots(self._sgd, self._params)
        self._map = ThreadPoolExecutor(threads).map if threads > 1 else map
        self._x = np.empty((batch, *shape), np.float32)

    def step(self, x, y):
        np.multiply(x, np.float32(1 / 255), out=self._x)
        gradient = self._model.gradient(self._params, self._x, y, map=self._map)
        self._update(self._sgd, self._params, self._slots, gradient.grads, learning_rate=LEARNING_RATE, step=0)
        return gradient.losses.mean()


def edged_layer(axes, kind, *settings):  # noqa: PLR0911 - one a kind
    from edged.domain.nn import spec

    match kind:
        case "conv" if axes == 2:
            return spec.Conv1d(*settings, "relu")
        case "conv":
            filters, kernel, stride, padding = settings
            return spec.Conv2d(filters, (kernel, kernel), (stride, stride), padding, "relu")
        case "depthwise":
            kernel, stride, padding = settings
            return spec.DepthwiseConv2d((kernel, kernel), (stride, stride), padding, "relu")
        case "pool" if axes == 2:
            return spec.MaxPool1d(2, 2)
        case "pool":
            return spec.MaxPool2d((2, 2), (2, 2))
        case "mean":
            return spec.GlobalAvgPool()
        case "flatten":
            return spec.Flatten()
    return spec.Dense(*settings)


class Torch:
    def __init__(self, net, threads, batch, *, channels_last=False):
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        shape, layers = NETS[net]
        self._torch = torch
        self._axes, self._format = len(shape), torch.channels_last if channels_last else torch.contiguous_format
        self._model = torch.nn.Sequential(*self._layers(shape, layers))
        self._model(torch.zeros(1, shape[-1], *shape[:-1]))  # the dense layer learns its size
        self._model.to(memory_format=self._format)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        self._loss = torch.nn.CrossEntropyLoss()

    def _layers(self, shape, layers):
        nn = self._torch.nn
        conv, pool = (nn.Conv1d, nn.MaxPool1d) if self._axes == 2 else (nn.Conv2d, nn.MaxPool2d)
        channels = shape[-1]
        for kind, *settings in layers:
            if kind in {"conv", "depthwise"}:
                filters, kernel, stride, padding = settings if kind == "conv" else (channels, *settings)
                groups = channels if kind == "depthwise" else 1
                pad = kernel // 2 if padding == "same" else 0
                yield conv(channels, filters, kernel, stride, pad, groups=groups)
                yield nn.ReLU()
                channels = filters
            elif kind == "mean":
                yield nn.AdaptiveAvgPool2d(1)
                yield nn.Flatten()
            else:
                yield {"pool": lambda: pool(2), "flatten": nn.Flatten, "dense": lambda: nn.LazyLinear(10)}[kind]()

    def step(self, x, y):
        torch = self._torch
        x = torch.from_numpy(np.moveaxis(x, -1, 1)).to(torch.float32, memory_format=self._format).div_(255)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self._model(x), torch.from_numpy(y))
        loss.backward()
        self._optimizer.step()
        return loss


class TorchChannelsLast(Torch):
    def __init__(self, net, threads, batch):
        super().__init__(net, threads, batch, channels_last=True)


class TensorFlow:
    """A train step under tf.function, over a Keras model."""

    def __init__(self, net, threads, batch):
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.random.set_seed(0)
        shape, layers = NETS[net]
        self._tf = tf
        self._model = tf.keras.Sequential([tf.keras.Input(shape), *self._layers(len(shape), layers)])
        self._optimizer = tf.keras.optimizers.SGD(LEARNING_RATE, MOMENTUM)
        self._loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = self._loss(y, self._model(tf.cast(x, tf.float32) / 255, training=True))
            weights = self._model.trainable_variables
            self._optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return loss

        self.step = step

    def _layers(self, axes, layers):
        k = self._tf.keras.layers
        conv, pool = (k.Conv1D, k.MaxPooling1D) if axes == 2 else (k.Conv2D, k.MaxPooling2D)
        for kind, *settings in layers:
            match kind:
                case "conv":
                    yield conv(*settings, activation="relu")
                case "depthwise":
                    yield k.DepthwiseConv2D(*settings, activation="relu")
                case "pool":
                    yield pool(2)
                case "mean":
                    yield k.GlobalAveragePooling2D()
                case "flatten":
                    yield k.Flatten()
                case "dense":
                    yield k.Dense(*settings)


class KerasFit(TensorFlow):
    """The same by `model.fit`, from arrays of float32."""

    def __init__(self, net, threads, batch):
        super().__init__(net, threads, batch)
        self._batch = batch
        x, y = read_samples(net)
        self._x, self._y = x.astype(np.float32) / 255, y
        self._model.compile(self._optimizer, self._loss)

    def fit(self, num_samples):
        left = num_samples
        while left > 0:
            n = min(left, len(self._x))
            history = self._model.fit(self._x[:n], self._y[:n], self._batch, shuffle=True, verbose=0)
            left -= n
        return history.history["loss"][-1]


class Gemms:
    """No trainer: the matrix products of the convolutions by patches and of the dense layers, and nothing else.

    Of the convolutions only the outputs that a pooling window covers; no input gradient of the first layer. Square
    products of 1024 give the machine's own rate.
    """

    shapes = ((1, 26 * 26, 9, 32), (1, 10 * 10, 9 * 32, 64), (1, 1, 1600, 10))
    """How many products, and of each: rows a sample, the inner axis, columns."""

    def __init__(self, net, threads, batch):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")
        assert net == "fashion", "the other nets are not bound by matrix products"
        self._executor = ThreadPoolExecutor(threads)
        self._n = 32
        self._lanes = [self._products() for _ in range(threads)]
        self._square = [[np.ones((1024, 1024), np.float32) for _ in range(3)] for _ in range(threads)]
        self.flops_a_sample = sum(2 * a.size * b.shape[2] for a, b, _ in self._lanes[0]) // self._n

    def _products(self):
        rng, result = np.random.default_rng(0), []
        for index, (num, rows, inner, columns) in enumerate(self.shapes):
            patches, kernel, products = (
                rng.random((num, *shape), np.float32)
                for shape in ((self._n * rows, inner), (inner, columns), (self._n * rows, columns))
            )
            result += [(patches, kernel, products), (patches.swapaxes(1, 2), products, np.empty_like(kernel))]
            if index:
                result.append((products, kernel.swapaxes(1, 2), np.empty_like(patches)))
        return result

    def _one_lane(self, lane, times):
        for _ in range(times):
            for a, b, out in self._lanes[lane]:
                np.matmul(a, b, out=out)

    def fit(self, num_samples):
        times = max(num_samples // self._n // len(self._lanes), 1)
        list(self._executor.map(lambda lane: self._one_lane(lane, times), range(len(self._lanes))))
        return 0.0

    def square_gflops(self):
        begin = time.perf_counter()
        times = 10
        list(
            self._executor.map(lambda abc: [np.matmul(abc[0], abc[1], out=abc[2]) for _ in range(times)], self._square)
        )
        return 2 * 1024**3 * times * len(self._square) / (time.perf_counter() - begin) / 1e9


class WinogradGemms(Gemms):
    """The same with the second convolution by Winograd, as the trainer computes it."""

    shapes = (Gemms.shapes[0], (16, 5 * 5, 32, 64), Gemms.shapes[2])


PEERS = {
    "edged": Edged,
    "tensorflow": TensorFlow,
    "keras fit": KerasFit,
    "torch": Torch,
    "torch channels_last": TorchChannelsLast,
    "gemms im2col": Gemms,
    "gemms winograd": WinogradGemms,
}


def main():
    peer, net, threads, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    trainer = PEERS[peer](net, threads, batch)
    if isinstance(trainer, Gemms):
        print(json.dumps({"flops_a_sample": trainer.flops_a_sample}), flush=True)
    else:
        print(json.dumps({}), flush=True)
    batches = Batches(net, batch)
    for line in sys.stdin:
        num_samples = int(line)
        begin, cpu = time.perf_counter(), time.process_time()
        if hasattr(trainer, "fit"):
            loss = trainer.fit(num_samples)
        else:
            for _ in range(num_samples // batch):
                loss = trainer.step(*batches.next())
        answer = {
            "loss": float(loss.detach() if hasattr(loss, "detach") else loss),
            "s": time.perf_counter() - begin,
            "cpu_s": time.process_time() - cpu,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if isinstance(trainer, Gemms):
            answer["square_gflops"] = trainer.square_gflops()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
