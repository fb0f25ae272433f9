"""The process itself: its health, watchdog and resources, as the log and systemd see them.

Belongs here: what every node has, whatever its tier. Does not: what a tier does.
"""
