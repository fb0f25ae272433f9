"""The fake of ports.Host."""

import itertools
from collections.abc import Iterable

from edged.ports import HostSample


class ScriptedHost:
    """A Host that returns the given samples one after the other, then the last one for ever."""

    def __init__(self, samples: Iterable[HostSample]) -> None:
        *first, last = samples
        self.times_given_back = 0
        self._samples = itertools.chain(first, itertools.repeat(last))

    def sample(self) -> HostSample:
        return next(self._samples)

    def give_back_memory(self) -> None:
        self.times_given_back += 1
