"""A Host whose samples are given."""

import itertools
from collections.abc import Iterable

from edged.ports import HostSample


class ScriptedHost:
    """A Host that tells the samples it was given one after the other, the last one for ever; for tests."""

    def __init__(self, samples: Iterable[HostSample]) -> None:
        *first, last = samples
        self._samples = itertools.chain(first, itertools.repeat(last))

    def sample(self) -> HostSample:
        return next(self._samples)
