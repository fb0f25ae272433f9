"""The archive's store: Parquet files on a file system that fsspec reaches.

Belongs here: the files' format, naming, verification and retries. Does not: who asks for what (`services.archive`).
"""
