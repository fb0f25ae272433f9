"""The fake of ports.Health."""

import asyncio


class RecordingHealth:
    """A `ports.Health` that records `reasons`, of the parts degraded now, and `history`, all changes in order."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.history: list[tuple[str, str]] = []
        self._change = asyncio.Event()

    async def until_degraded(self) -> None:
        """Wait until some part is degraded."""
        while not self.reasons:
            self._change.clear()
            await self._change.wait()

    def degraded(self, part: str, reason: str, *, awaited: bool = True) -> None:  # noqa: ARG002
        if part not in self.reasons:
            self.history.append(("degraded", part))
        self.reasons[part] = reason
        self._change.set()

    def recovered(self, part: str) -> None:
        if self.reasons.pop(part, None) is not None:
            self.history.append(("recovered", part))
