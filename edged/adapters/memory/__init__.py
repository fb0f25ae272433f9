"""Fakes of ports that keep all in memory, for tests and one-shot use.

Belongs here: one fake for each port, held to the same contract suite as the real thing. Does not: test helpers.
"""
