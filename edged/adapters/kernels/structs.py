"""What passes the border to C, field by field as kernels.c declares it."""

import ctypes

STRUCTS: tuple[type[ctypes.Structure], ...] = ()
"""By the number that `edged_kernels_sizeof` has for each; `library` compares the sizes."""
