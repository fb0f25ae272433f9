"""The fake of ports.Notifier."""


class RecordingNotifier:
    """A Notifier that records its calls in `sent`: pairs of the method's name and its argument or None."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self.sent: list[tuple[str, str | None]] = []

    def ready(self) -> None:
        self.sent.append(("ready", None))

    def status(self, text: str) -> None:
        self.sent.append(("status", text))

    def watchdog(self) -> None:
        self.sent.append(("watchdog", None))

    def reloading(self) -> None:
        self.sent.append(("reloading", None))

    def stopping(self) -> None:
        self.sent.append(("stopping", None))
