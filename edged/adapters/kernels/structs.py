"""The structs and functions of kernels.c as ctypes sees them: the same fields in the same order.

Covers their layout alone. See also: `tables` (what the pointers to offsets point to), `library` (which checks sizes).
"""

import ctypes
from collections.abc import Sequence

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
    """Places side by side that meet the same elements of a depthwise kernel."""

    _fields_ = _fields("source target count first_tap taps", "")


class Depthwise(ctypes.Structure):
    """A depthwise convolution."""

    _fields_ = _fields(
        "channels activation inputs results num_runs num_runs_back step",
        "runs runs_back tap_x tap_w tap_g tap_w_back w bias dw dbias y dx",
    )


class Pool(ctypes.Structure):
    """Pooling by maximum or mean."""

    _fields_ = _fields("channels inputs windows size", "at_x y dx places")


STRUCTS: tuple[type[ctypes.Structure], ...] = (Dense, Group, Conv, Winograd, Run, Depthwise, Pool)
"""In the order of `edged_kernels_sizeof`."""

_KINDS = ("dense", "conv", "winograd", "depthwise", "pool")


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the types of the functions' arguments."""
    address, count = ctypes.c_void_p, ctypes.c_long
    for kind in _KINDS:
        forward, backward = getattr(library, f"{kind}_forward"), getattr(library, f"{kind}_backward")
        forward.argtypes, forward.restype = [address, count, address], None
        backward.argtypes, backward.restype = [address, count, address, address], None
    library.matrix.argtypes = [count, *[address] * 3, address, address, count, count, address, count, ctypes.c_int]
    library.matrix.restype = None
