"""How many samples a lane computes at once: the sizes that are tried on a machine, and how large its buffers get."""

SIZES = (2, 4, 8, 16, 32, 64)

MAX_LANE_BYTES = 6 << 20
"""Of a lane's buffers: a size that needs more is not tried, unless it is the first. Larger ones do not stay in a CPU's
caches: no example of config/ was faster with them by more than a twentieth."""
