"""Puts a node together: adapters, services, and the one TaskGroup in which tasks are born."""
