"""Data-parallel training over a log: its records, their fold into a state, and what that does to the weights.

Belongs here: what a prefix of the log means, the same for all who read it. Does not: reading or writing the log
(`services.group`), time, or the arithmetic of one member's gradient (`domain.training`).
"""
