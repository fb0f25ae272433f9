"""What an edge keeps of the data set, as decisions on values: admission, eviction, write budget, hit share.

Belongs here: entries, tables of ids, policies. Does not: storing anything (`services.cache`, `adapters.disk`), the
order in which samples are drawn (`domain.epochs`).
"""
