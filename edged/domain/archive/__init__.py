"""What the archive holds, as snapshots of blocks, and the protocol by which an edge asks for it.

Belongs here: values, messages and hashes of blocks. Does not: files (`adapters.parquet`), plans (`domain.epochs`).
"""
