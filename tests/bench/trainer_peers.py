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

# (kind, *settings). Convolutions and depthwise: (…, kernel, stride, padding[, activation, by default ReLU]).
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
    # As MobileNetV2 (Sandler et al. 2018) of width 0.5, without its shortcuts
    "mobile": (
        (96, 96, 3),
        [
            ("conv", 16, 3, 2, "same", "relu6"), ("depthwise", 3, 1, "same", "relu6"),
            ("conv", 8, 1, 1, "same", "none"),
            *(
                layer
                for filters, stride in ((12, 2), (12, 1), (16, 2), (16, 1), (32, 2), (32, 1))
                for layer in (
                    ("conv", 6 * filters, 1, 1, "same", "relu6"), ("depthwise", 3, stride, "same", "relu6"),
                    ("conv", filters, 1, 1, "same", "none"),
                )
            ),
            ("conv", 256, 1, 1, "same", "relu6"), ("mean",), ("dense", 10),
        ],
    ),
    # Keywords in speech: the DS-CNN of Zhang et al. 2017 (https://arxiv.org/abs/1711.07128), small
    "keywords": (
        (49, 10, 1),
        [
            ("conv", 64, (10, 4), 2, "same"),
            *[("depthwise", 3, 1, "same"), ("conv", 64, 1, 1, "same")] * 4,
            ("mean",), ("dense", 10),
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
        backend = self.backend()
        size = micro_batch.measure(shape, layers, -(-batch // threads), backend)
        self._model = Model(shape, layers, lanes=threads, micro_batch=size, backend=backend)
        self._params = self._model.initial(0)
        self._sgd, self._update = Sgd(LEARNING_RATE, MOMENTUM), optim.update
        self._slots = optim.initial_slots(self._sgd, self._params)
        self._map = ThreadPoolExecutor(threads).map if threads > 1 else map
        self._x = np.empty((batch, *shape), np.float32)

    def backend(self):
        from edged.adapters.kernels.backend import CompiledBackend, compiled
        from edged.adapters.kernels.library import fitting, load
        from edged.adapters.kernels.structs import declare

        if "EDGED_BENCH_KERNELS" not in os.environ:
            return compiled()
        folder = Path(os.environ["EDGED_BENCH_KERNELS"])
        library = load(next(each for each in fitting(folder) if (folder / each.file).exists()), folder)
        declare(library)
        return CompiledBackend(library)

    def step(self, x, y):
        np.multiply(x, np.float32(1 / 255), out=self._x)
        gradient = self._model.gradient(self._params, self._x, y, map=self._map)
        self._update(self._sgd, self._params, self._slots, gradient.grads, learning_rate=LEARNING_RATE, step=0)
        return gradient.losses.mean()


class EdgedNumpy(Edged):
    """The reference, which computes where there are no kernels."""

    def backend(self):
        return None


def edged_layer(axes, kind, *settings):  # noqa: PLR0911 - one a kind
    from edged.domain.nn import spec

    match kind:
        case "conv" if axes == 2:
            return spec.Conv1d(*settings, "relu")
        case "conv":
            filters, kernel, stride, padding, activation = (*settings, "relu")[:5]
            return spec.Conv2d(filters, pair(kernel), (stride, stride), padding, activation)
        case "depthwise":
            kernel, stride, padding, activation = (*settings, "relu")[:4]
            return spec.DepthwiseConv2d(pair(kernel), (stride, stride), padding, activation)
        case "pool" if axes == 2:
            return spec.MaxPool1d(2, 2)
        case "pool":
            return spec.MaxPool2d((2, 2), (2, 2))
        case "mean":
            return spec.GlobalAvgPool()
        case "flatten":
            return spec.Flatten()
    return spec.Dense(*settings)


def pair(kernel):
    return kernel if isinstance(kernel, tuple) else (kernel, kernel)


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
                described = (*(settings if kind == "conv" else (channels, *settings)), "relu")
                filters, kernel, stride, padding, activation = described[:5]
                groups = channels if kind == "depthwise" else 1
                pad = (
                    0
                    if padding == "valid"
                    else kernel // 2
                    if isinstance(kernel, int)
                    else tuple(k // 2 for k in kernel)
                )
                yield conv(channels, filters, kernel, stride, pad, groups=groups)
                if activation != "none":
                    yield {"relu": nn.ReLU, "relu6": nn.ReLU6}[activation]()
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


def keras_activation(name):
    return None if name == "none" else name


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
                    filters, kernel, stride, padding, activation = (*settings, "relu")[:5]
                    yield conv(filters, kernel, stride, padding, activation=keras_activation(activation))
                case "depthwise":
                    kernel, stride, padding, activation = (*settings, "relu")[:4]
                    yield k.DepthwiseConv2D(kernel, stride, padding, activation=keras_activation(activation))
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


class Products:
    """No trainer: the multiplications and additions of its convolutions and dense layers, and nothing else.

    As many as the trainer's own layers need: 3×3 kernels by Winograd, and no gradient of the first layer's input. Its
    rate is that of the processor: fused multiply-adds in registers, measured on every thread.
    """

    def __init__(self, net, threads, batch):
        self._executor, self._threads = ThreadPoolExecutor(threads), threads
        self.flops_a_sample = 2 * multiply_adds(net)
        self._loop, self._flops_of_a_turn = compiled_loop()

    def fit(self, num_samples):
        times = max(int(num_samples * self.flops_a_sample / self._threads / self._flops_of_a_turn), 1)
        list(self._executor.map(self._loop, [times] * self._threads))
        return 0.0


LOOP = """
#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif
enum { SUMS = 10 };
typedef float vec __attribute__((vector_size(4 * WIDTH)));
int flops(void) { return 2 * WIDTH * SUMS; }
float loop(long n) {
    vec sum[SUMS] = {{0}}, x = (vec){0} + 0.999f, y = (vec){0} + 0.001f;
    for (; n > 0; n--)
#pragma GCC unroll 10
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * x + y;
    for (int i = 1; i < SUMS; i++) sum[0] += sum[i];
    return sum[0][0];
}
"""


def compiled_loop():
    """A loop of as many fused multiply-adds as the processor can do, and the operations of one turn."""
    import ctypes
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        source, library = Path(name) / "loop.c", Path(name) / "loop.so"
        source.write_text(LOOP)
        flags = os.environ.get("EDGED_BENCH_CFLAGS", "-march=native").split()
        subprocess.run(["cc", "-O3", *flags, "-shared", "-fPIC", "-o", library, source], check=True)
        compiled = ctypes.CDLL(str(library))
    compiled.loop.argtypes, compiled.loop.restype = [ctypes.c_long], ctypes.c_float
    return compiled.loop, compiled.flops()


def multiply_adds(net):
    """Of a sample's products, forward and backward: what the trainer's kernels compute."""
    from edged.adapters.kernels.winograd import tiles_of
    from edged.domain.nn import spec

    shape, described = NETS[net]
    layers = [edged_layer(len(shape), *layer) for layer in described]
    total, has_weights = 0, False
    for index, layer in enumerate(layers):
        output = layer.output_shape(shape)
        after = layers[index + 1] if index + 1 < len(layers) else None
        pool = after if isinstance(after, spec.MaxPool2d | spec.MaxPool1d) else None
        if isinstance(layer, spec.Conv2d | spec.Conv1d | spec.Dense | spec.DepthwiseConv2d):
            wanted = output
            if pool:  # outputs that no window covers are not computed
                size = pool.size if isinstance(pool, spec.MaxPool2d) else (pool.size,)
                wanted = (*(n * k for n, k in zip(pool.output_shape(output)[:-1], size, strict=True)), output[-1])
            once = int(np.prod(wanted)) * int(np.prod(layer.weights(shape)["kernel"][:-1]))
            if isinstance(layer, spec.Conv2d | spec.Conv1d):
                image = layer.as_2d if isinstance(layer, spec.Conv1d) else layer
                as_2d = pool.as_2d if isinstance(pool, spec.MaxPool1d) else pool
                if tiles := tiles_of(image, as_2d, shape):
                    places = (1,) * (3 - len(shape)) + tuple(wanted[:-1])
                    counts = [-(-n // k) for n, k in zip(places, tiles.outputs, strict=True)]
                    once = int(np.prod(counts)) * int(np.prod(tiles.inputs)) * shape[-1] * output[-1]
            elif isinstance(layer, spec.DepthwiseConv2d):
                once = int(np.prod(output)) * int(np.prod(layer.kernel))
            total += once * (3 if has_weights else 2)
            has_weights = True
        shape = output
    return total


PEERS = {
    "edged": Edged,
    "edged numpy": EdgedNumpy,
    "tensorflow": TensorFlow,
    "keras fit": KerasFit,
    "torch": Torch,
    "torch channels_last": TorchChannelsLast,
    "products": Products,
}


def main():
    peer, net, threads, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    trainer = PEERS[peer](net, threads, batch)
    print(json.dumps({"flops_a_sample": trainer.flops_a_sample} if isinstance(trainer, Products) else {}), flush=True)
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
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
