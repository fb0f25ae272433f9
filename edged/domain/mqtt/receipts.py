"""Receipts as a device reads them: a line for each sample, its id, and behind a tab why it was refused for good.

No id has a tab or a line break, see `samples.returned`. See also: `services.mqtt.receipts`, which sends them.
"""

from collections.abc import Iterator


def line(sample_id: str, refusal: str = "") -> str:
    """The sample's receipt. `refusal`: one of `samples.sample.REASONS`; empty when Kafka holds it."""
    return f"{sample_id}\t{refusal}" if refusal else sample_id


def read(payload: bytes) -> Iterator[tuple[str, str]]:
    """The id and the refusal of each receipt in a packet, whatever is in it."""
    for each in payload.decode(errors="replace").split("\n"):
        sample_id, _, refusal = each.partition("\t")
        yield sample_id, refusal
