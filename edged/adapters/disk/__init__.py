"""What a node keeps on its own disk: checkpoints with deployed models, and the cache's disk tier.

Belongs here: durable files and their repair. Does not: the archive's files (`adapters.parquet`).
"""
