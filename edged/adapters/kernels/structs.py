"""The structs and functions of kernels.c as ctypes sees them: the same fields in the same order.

Covers their layout, and the numbers by which C divides its work. See also: `library`, which compares their sizes.
"""

import ctypes
from collections.abc import Mapping, Sequence

TERMS = 256
"""Rows of a dense layer that C computes together."""

ROWS = 48
"""Outputs of a convolution that C computes together, before they are pooled."""

_Fields = Sequence[tuple[str, type]]


def _fields(integers: str, pointers: str) -> _Fields:
    return [
        *((name, ctypes.c_int32) for name in integers.split()),
        *((name, ctypes.c_void_p) for name in pointers.split()),
    ]


class Dense(ctypes.Structure):
    """A dense layer."""

    _fields_ = _fields("inputs units activation", "by_input by_unit ones w bias wt dw dbias y dx")


class Group(ctypes.Structure):
    """Pixels of a convolution's input that meet the same elements of the kernel."""

    _fields_ = _fields("pixels taps", "at_g at_dx tap_g tap_w")


class Conv(ctypes.Structure):
    """A convolution by implicit patches."""

    _fields_ = _fields(
        "channels filters taps outputs window activation num_groups lines line padded_line padded_first",
        "at_x at_g tap_x tap_w groups w bias wt dw dbias y dx places padded g products",
    )


class Winograd(ctypes.Structure):
    """A convolution by Winograd's way."""

    _fields_ = _fields(
        "channels filters points tiles outputs window activation inputs results block",
        "at_x at_y by_channel by_filter ones u bias ut du dbias y dx places v m zeros sink",
    )


class Run(ctypes.Structure):
    """Places one after the other."""

    _fields_ = _fields("source target count", "")


class Meeting(ctypes.Structure):
    """Runs whose places meet the same elements of a depthwise kernel."""

    _fields_ = _fields("first_run runs first_tap taps step_source step_target across", "")


class Depthwise(ctypes.Structure):
    """A depthwise convolution."""

    _fields_ = _fields(
        "channels activation inputs results num_meetings num_meetings_back",
        "meetings meetings_back runs runs_back tap_x tap_w tap_g tap_w_back w bias dw dbias y dx",
    )


class Pool(ctypes.Structure):
    """Pooling by maximum or mean."""

    _fields_ = _fields("channels inputs windows size", "at_x y dx places")


class Step(ctypes.Structure):
    """A layer among those that follow each other."""

    _fields_ = _fields("kind rows", "layer y dx")


STRUCTS: tuple[type[ctypes.Structure], ...] = (
    Dense,
    Group,
    Conv,
    Winograd,
    Run,
    Meeting,
    Depthwise,
    Pool,
    Step,
)
"""In the order of `edged_kernels_sizeof`."""

KINDS: Mapping[type[ctypes.Structure], int] = {Dense: 0, Conv: 1, Winograd: 2, Depthwise: 3, Pool: 4}
"""Of layers, as Step names them."""


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the types of the functions' arguments."""
    address, count = ctypes.c_void_p, ctypes.c_long
    library.edged_forward.argtypes, library.edged_forward.restype = [address, count, count, address], None
    library.edged_backward.argtypes, library.edged_backward.restype = [address, count, count, address, address], None
    library.edged_matrix.argtypes = [count, *[address] * 5, count, count, address, count, ctypes.c_int]
    library.edged_matrix.restype = None
    library.edged_cross_entropy.argtypes = [count, count, *[address] * 6]
    library.edged_cross_entropy.restype = count
    library.edged_lane.argtypes = [address, *[count] * 4, address, count, *[address] * 5]
    library.edged_lane.restype = count
    number = ctypes.c_float
    library.edged_momentum.argtypes = [count, *[address] * 3, *[number] * 4, ctypes.c_int]
    library.edged_momentum.restype = None
    library.edged_adam.argtypes = [count, *[address] * 4, *[number] * 8]
    library.edged_adam.restype = None
