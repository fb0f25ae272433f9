"""What is wrong with a topology, as findings with their paths.

Belongs here: rules between several values. Does not: the range of a single value (`topology_file.schema`), where in
the file a value stands (`topology_file`).
"""
