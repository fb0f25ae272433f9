"""A device's own side of delivery: its buffer's frames, files and bounds, and which samples in flight are sent again.

Values alone. See also: `adapters.disk.sample_buffer`, which keeps them on a disk, and `edged.device`, which sends them.
"""
