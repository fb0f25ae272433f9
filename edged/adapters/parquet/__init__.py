"""The archive's store: Parquet files in any `ports.ObjectStore`.

Belongs here: what counts of them, how a source grows, the files' format, verification, migration and retries. Does not:
who asks for what (`services.archive`).
"""
