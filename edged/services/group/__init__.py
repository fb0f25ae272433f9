"""One member of a training group, and the group's parameter server.

Belongs here: following the group's log, contributing to its steps, agreeing on epochs. Does not: what the log means
(`domain.group`). `log/` reads and writes the log, `checkpoints/` shares checkpoints and resumes from them.
"""
