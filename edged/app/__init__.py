"""Composes a node of adapters and services, and runs it in one TaskGroup.

`node`, `archive` and `companion` compose the three kinds of process, `jobs` and `group` the training jobs of an edge;
`supervision` starts a process, keeps it ready, and stops it in order; `topics` looks after the topics that it needs.
"""
