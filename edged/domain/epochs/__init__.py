"""Which samples an epoch draws, in which order and with which weights.

Belongs here: plans, sampling modes, scores, windows, the train/test split. Does not: fetching samples
(`services.epochs`), sharing an epoch out among members (`domain.group`).
"""
