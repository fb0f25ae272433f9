"""The topology file, described once: its sections, keys, ranges, and what each is for.

Reading and the JSON Schema both follow from it. Defaults are those of the values in `domain.topology`.
"""
