# mypy: ignore-errors
# ruff: noqa: T201 - it answers on its standard output
"""One rank of PyTorch's DistributedDataParallel on gloo, training what an edge of the group trains.

Started by `exchange_ddp`: python exchange_ddp_worker.py SETTINGS, a JSON object. Needs torch and numpy, nothing else.
It prints a JSON object when it is ready, and then reads a line and answers it: `train` trains all epochs, with an
object for the end of each; `test` tells each epoch's accuracy on the whole test set and the weights' hash.
"""

import gzip
import hashlib
import json
import math
import sys
import time

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel
from trainer_peers import FASHION_MNIST, Torch, read_samples


def test_samples():
    with gzip.open(FASHION_MNIST / "t10k-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(FASHION_MNIST / "t10k-labels-idx1-ubyte.gz") as file:
        return x, np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)


class Rank:
    """Its share of each global batch is every `world`-th sample of it: all ranks' shares are of one size but for 1."""

    def __init__(self, given):
        torch.set_num_threads(1)
        self._given = given
        self._net = Torch("fashion", 1, given["batch"])._model
        self._model = DistributedDataParallel(self._net)
        if given["compression"] == "fp16":
            self._model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        x, y = read_samples("fashion")
        self._x, self._y = x[: given["images"]].reshape(-1, 1, 28, 28), y[: given["images"]]
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=given["learning_rate"], momentum=0.9)
        self._ends = []

    def train(self):
        for epoch in range(self._given["epochs"]):
            begin = time.perf_counter()
            loss = self._train_epoch(epoch)
            seconds = time.perf_counter() - begin
            self._ends.append({name: value.clone() for name, value in self._net.state_dict().items()})
            yield {"epoch": epoch, "samples": len(self._x), "seconds": seconds, "loss": loss}

    def _train_epoch(self, epoch):
        given, size = self._given, self._given["batch"]
        order = np.random.default_rng((given["seed"], epoch)).permutation(len(self._x))
        sum_of_losses = 0.0
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            own = batch[given["rank"] :: given["world"]]
            self._set_rate(epoch + first / len(order))
            x = torch.from_numpy(self._x[own]).to(torch.float32).div_(255)
            self._optimizer.zero_grad(set_to_none=True)
            losses = torch.nn.functional.cross_entropy(self._model(x), torch.from_numpy(self._y[own]), reduction="sum")
            (losses * (given["world"] / len(batch))).backward()  # the ranks' mean is then the batch's
            self._optimizer.step()
            sum_of_losses += float(losses.detach())
        return sum_of_losses * given["world"] / len(order)

    def _set_rate(self, progress):
        """As edged's schedule: a linear warm-up, and a cosine from its end to that of the last epoch."""
        warmup, epochs = self._given["warmup"], self._given["epochs"]
        warm = min(max(progress, 0.01 * warmup) / warmup, 1.0) if warmup else 1.0
        share = min(max((progress - warmup) / max(epochs - warmup, 1e-9), 0.0), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._given["learning_rate"] * warm * (1 + math.cos(math.pi * share)) / 2

    def test(self):
        x, y = test_samples()
        digest = hashlib.sha256()
        for name, value in sorted(self._net.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        accuracies = [self._accuracy(end, x, y) for end in self._ends] if self._given["rank"] == 0 else []
        return {"accuracies": accuracies, "weights": digest.hexdigest()}

    @torch.no_grad()
    def _accuracy(self, end, x, y):
        self._net.load_state_dict(end)
        parts = range(0, len(y), 500)
        batches = (torch.from_numpy(x[part : part + 500]).to(torch.float32).div_(255) for part in parts)
        found = torch.cat([self._net(batch).argmax(1) for batch in batches])
        return int((found.numpy() == y).sum()) / len(y)


def main():
    given = json.loads(sys.argv[1])
    address = f"tcp://{given['address']}:{given['port']}"
    dist.init_process_group("gloo", init_method=address, rank=given["rank"], world_size=given["world"])
    rank = Rank(given)
    print(json.dumps({"ready": given["rank"]}), flush=True)
    for line in sys.stdin:
        for answer in rank.train() if line == "train\n" else [rank.test()]:
            print(json.dumps(answer), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
