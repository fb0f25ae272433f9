"""The machine and its service manager: counters, systemd, locks, BLAS threads, the measured micro-batch.

Belongs here: what is asked of the operating system. Does not: what is done about it (`services.node`).
"""
