"""All parameters of a model as one vector, in the order of their names, and the digest that members compare."""

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Params = Mapping[str, npt.NDArray[np.float32]]


def size(params: Params) -> int:
    """The number of parameters."""
    return sum(param.size for param in params.values())


def flatten(params: Params) -> Vector:
    """The parameters as one new vector, float32 [size]."""
    return np.concatenate([params[name].ravel() for name in sorted(params)], dtype=np.float32)


def split(vector: Vector, params: Params) -> dict[str, npt.NDArray[np.float32]]:
    """Views into `vector`, float32 [size], with the names and shapes of `params`."""
    views: dict[str, npt.NDArray[np.float32]] = {}
    begin = 0
    for name in sorted(params):
        end = begin + params[name].size
        views[name] = vector[begin:end].reshape(params[name].shape)
        begin = end
    return views


def digest(params: Params) -> str:
    """SHA-256 of the parameters' bits, in hexadecimal."""
    sha = hashlib.sha256()
    for name in sorted(params):
        sha.update(params[name].astype("<f4").tobytes())
    return sha.hexdigest()
