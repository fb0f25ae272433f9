"""Both ends of the archive's protocol: archiver and epoch server on the archive node, client on the edge; the importer.

Belongs here: what moves blocks between Kafka and the archive's store. Does not: the store (`adapters.parquet`), the
messages (`domain.archive`).
"""
