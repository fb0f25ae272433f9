"""Features of samples, computed once: a frozen backbone gives the same ones in every epoch.

Covers keeping them in memory. Their key is the payload's digest: sample ids are those of one snapshot, and a live
sample is to be recognised when it comes back from the archive.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edged.domain.nn.spec import Shape
from edged.ports import FeatureExtractor

_ENTRY_BYTES = 200
"""Memory of a key and its dict entry, besides the features."""

Decode = Callable[[npt.NDArray[np.float32], Sequence[bytes], Sequence[str]], npt.NDArray[np.bool_]]
"""Payloads and their codecs into an array of normalised samples; which of them could be decoded."""


class FeatureCache:
    """Features of at most `max_bytes`, shared by a job's batchers; for any threads, one at a time.

    When full it keeps what it has: an epoch goes through all samples, so the oldest are read again first.
    """

    def __init__(self, extractor: FeatureExtractor, sample_shape: Shape, shape: Shape, max_bytes: int) -> None:
        self.shape = shape
        """Of one sample's features."""
        self._extractor = extractor
        self._sample_shape = sample_shape
        row_bytes = int(np.prod(shape)) * 4
        self._rows = np.empty((max_bytes // (row_bytes + _ENTRY_BYTES), *shape), np.float32)
        self._row_of: dict[bytes, int] = {}
        self._turn = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Bytes in use."""
        return len(self._row_of) * (int(np.prod(self.shape)) * 4 + _ENTRY_BYTES)

    def fill(
        self, x: npt.NDArray[np.float32], payloads: Sequence[bytes], codecs: Sequence[str], decode: Decode
    ) -> npt.NDArray[np.bool_]:
        """Features of `payloads` into `x`, float32 [n, *shape]; which of them are in it: bool [n].

        Unknown ones are decoded and computed; what is then not finite is left out.
        """
        keys = [_key(payload, codec) for payload, codec in zip(payloads, codecs, strict=True)]
        with self._turn:
            return self._fill(keys, x, payloads, codecs, decode)

    def _fill(
        self,
        keys: Sequence[bytes],
        x: npt.NDArray[np.float32],
        payloads: Sequence[bytes],
        codecs: Sequence[str],
        decode: Decode,
    ) -> npt.NDArray[np.bool_]:
        rows = np.array([self._row_of.get(key, -1) for key in keys], np.int64)
        known = rows >= 0
        x[known] = self._rows[rows[known]]
        (unknown,) = np.nonzero(~known)
        if len(unknown):
            pixels = np.zeros((len(unknown), *self._sample_shape), np.float32)
            good = decode(pixels, [payloads[i] for i in unknown], [codecs[i] for i in unknown])
            unknown = unknown[good]
            features = self._extractor.features(pixels[good])
            finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
            unknown = unknown[finite]
            x[unknown] = features[finite]
            known[unknown] = True
            for i in unknown.tolist():
                self._keep(keys[i], x[i])
        return known

    def _keep(self, key: bytes, features: npt.NDArray[np.float32]) -> None:
        row = len(self._row_of)
        if key not in self._row_of and row < len(self._rows):
            self._rows[row] = features
            self._row_of[key] = row


def _key(payload: bytes, codec: str) -> bytes:
    return hashlib.blake2b(payload, digest_size=16, person=codec.encode()).digest()
