"""One edge training alone: the trainer, its checkpoints, evaluation and resuming.

Belongs here: what a job needs without a group, and what a group's trainer shares with it. Does not: the group's log
(`services.group`), arithmetic (`domain.training`).
"""
