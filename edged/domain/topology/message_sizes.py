"""The largest message of each topic that takes more, or less, than Kafka's default."""

from edged.domain.topology.devices import MIB

EPOCHS_MESSAGE_BYTES = 2 * MIB
"""A part of an epoch is 512 KiB plus at most one sample of 768 KiB, and its header."""

REQUESTS_MESSAGE_BYTES = 4 * MIB
"""A request may list a million rows of two bytes, and their blocks."""

EXCHANGE_MESSAGE_BYTES = MIB
"""Gradients, updates and checkpoints are sent in parts of at most 512 KiB, each with its header."""

DEAD_LETTER_MESSAGE_BYTES = 320 * 1024
"""A dead letter keeps 256 KiB of the record, and has its reason in the headers."""
