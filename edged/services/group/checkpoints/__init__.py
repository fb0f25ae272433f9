"""Checkpoints that a group shares through Kafka: publishing, reading, and resuming from them.

Belongs here: what is in the checkpoints topic. Does not: a member's own checkpoints on its disk
(`services.training.checkpointing`).
"""
