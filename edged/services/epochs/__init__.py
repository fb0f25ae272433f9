"""An epoch's mini-batches from cache and archive: planned, prefetched, loaded, counted.

Belongs here: carrying out a plan. Does not: drawing one (`domain.epochs`), training on it (`services.training`).
"""
