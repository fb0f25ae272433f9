"""The kinds of values in the file. Each reads a node and describes itself as JSON Schema: one description for both.

See also: `topology_file.schema`, which describes the file in terms of these.
"""
