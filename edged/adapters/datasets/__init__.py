"""Finished data sets that a sensor replays or an import reads: IDX files, image folders, CSV tables.

Belongs here: one module per format behind `ports.Dataset`. Does not: the archive's own files (`adapters.parquet`).
"""
