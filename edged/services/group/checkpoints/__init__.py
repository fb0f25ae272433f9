"""Checkpoints that a group shares through Kafka: publishing, reading, and recovering by them.

Belongs here: what is in the checkpoints topic. Does not: a member's own checkpoints on its disk
(`services.training.checkpointing`).
"""
