"""The commands."""


def main() -> int:
    """Entry point."""
    return 64
