"""Training of one state: the learner, optimizers, schedules, augmentation, and checkpoints.

Belongs here: arithmetic on weights and its settings, the checkpoint's encoding. Does not: layers (`domain.nn`), files
(`adapters.disk`), the group's log (`domain.group`).
"""
