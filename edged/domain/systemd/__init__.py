"""systemd's part of a node, decided as values: its units, what they need of the machine, and how they come to run.

- `setup`: what a node needs, as the topology says. `fit`: whether what a machine has still is that.
- `actions`: what is done to a machine. `enabling`: which actions, from what is there.

Nothing is read or run here. See also: `adapters.host.machine`.
"""
