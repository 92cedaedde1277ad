"""Whether the kernel holds its clock to be right: adjtimex(2), which only reads here. Knows no time.

Under systemd's ProtectClock= the call is forbidden, as it could set the clock too; then nobody can tell. The unit that
we ship allows it.
"""

from __future__ import annotations

import ctypes

_TIME_ERROR = 5  # what adjtimex returns while the clock is marked as not synchronised
_UNBOUND = 16_000_000  # microseconds; the kernel's bound on the error grows up to it while nobody sets the clock right


class _Timex(ctypes.Structure):
    """The beginning of struct timex. modes: 0, for reading."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 512),  # it has 208 bytes in all on 64-bit Linux
    )


def synchronised() -> bool | None:
    """None where it cannot be told: no such call, or it is not allowed."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    # chrony without `rtcsync` leaves the mark where it is, though it sets the clock right; the bound does not lie.
    return None if state < 0 else state != _TIME_ERROR or timex.maxerror < _UNBOUND
