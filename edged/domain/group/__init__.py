"""Data-parallel training over a log: its records, their fold into a state, and how that changes the weights.

README.md in this folder specifies the protocol.

Belongs here: what a prefix of the log means, the same for all who read it. Does not: reading or writing the log
(`services.group`), time, or the arithmetic of one member's gradient (`domain.training`).
"""
