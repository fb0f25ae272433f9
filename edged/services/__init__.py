"""The loops of the daemon: one class and one public coroutine `run()` each.

A service takes ports and settings, decides through `domain`, and pulls what it needs. It starts no task, knows no
adapter, and keeps no queue that a direct call can replace.
"""
