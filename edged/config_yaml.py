"""The topology file: YAML to a valid Topology, or every problem with its place."""
