"""Validation of a topology: rules between several values, whose findings have paths.

See also: `topology_file.schema` for the range of a single value, `topology_file` for its place in the file.
"""
