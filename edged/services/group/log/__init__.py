"""The group's log as one member reads and writes it.

Belongs here: positions, order, deadlines. Does not: what records mean (`domain.group`), weights
(`services.group.follower`).
"""
