"""The log's lines about files that became durable: not one for each, as an SD card takes 64 kB for a line by itself."""

import math
from dataclasses import dataclass

from edged.log import logger


@dataclass(slots=True)
class _Files:
    """Of one source, since its last line."""

    first_offset: int
    next_offset: int
    count: int = 0
    samples: int = 0
    num_bytes: int = 0
    write_s: float = 0.0


class FlushLog:
    """Of each source that has new files a line, all sources' together."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], _Files] = {}
        self._last_s = -math.inf

    def add(
        self, source: tuple[str, str], offsets: tuple[int, int], samples: int, num_bytes: int, write_s: float
    ) -> None:
        """A file of the source (stream and edge) is durable, of the offsets from the first one up to the second."""
        files = self._files.setdefault(source, _Files(*offsets))
        files.next_offset = offsets[1]
        files.count += 1
        files.samples += samples
        files.num_bytes += num_bytes
        files.write_s = max(files.write_s, write_s)

    def write_if_due(self, now_s: float, every_s: float) -> None:
        """Write the lines, unless the last ones are less than `every_s` old."""
        if self._files and now_s >= self._last_s + every_s:
            self._last_s = now_s
            self.write()

    def write(self) -> None:
        """Write the lines now."""
        for (stream, edge), files in self._files.items():
            logger().info(
                "archive.flushed",
                stream=stream,
                source=edge,
                first_offset=files.first_offset,
                next_offset=files.next_offset,
                files=files.count,
                samples=files.samples,
                bytes=files.num_bytes,
                write_ms=files.write_s * 1000,
            )
        self._files.clear()
