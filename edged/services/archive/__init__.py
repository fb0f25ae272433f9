"""Both ends of the archive's protocol: the archiver and the epoch server of its node, the edge's client, the importer.

Belongs here: what moves blocks between Kafka and the archive's store. Does not: the store (`adapters.parquet`), the
messages (`domain.archive`).
"""
