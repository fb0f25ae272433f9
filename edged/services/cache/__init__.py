"""The cache of an edge at work: memory tier over disk tier, shared by the jobs on one stream.

Belongs here: storing and returning entries within byte budgets. Does not: which to keep (`domain.cache`), the disk
tier's files (`adapters.disk`).
"""
