"""The process itself: its health, its watchdog, its resources, as the log and systemd see them.

Belongs here: what every node has, whatever its tier. Does not: what a tier does.
"""
