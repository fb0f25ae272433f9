"""Ingest: records of devices are checked, dead-lettered or packed, and sent to the archive.

Belongs here: everything between a device's topic and an edge's archive topic. Does not: training on the samples
(`services.batches`).
"""
