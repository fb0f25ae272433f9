"""The way in: records of devices checked, dead-lettered or packed, and uplinked to the archive.

Belongs here: everything between a device's topic and an edge's archive topic. Does not: training on what came
(`services.batches`).
"""
