"""The health of a command at a prompt, which simply fails when Kafka does not answer."""


class Unheard:
    """A `ports.Health` that nobody listens to."""

    def degraded(self, part: str, reason: str) -> None:
        """Nobody listens."""

    def recovered(self, part: str) -> None:
        """Nobody listens."""
