"""What training does to a state: the learner, optimizers, schedules, augmentation, and the state as a checkpoint.

Belongs here: arithmetic on weights and its settings, the checkpoint's encoding. Does not: layers (`domain.nn`), files
(`adapters.disk`), the group's log (`domain.group`).
"""
