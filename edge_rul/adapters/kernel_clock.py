"""Whether the kernel holds its clock to be right: adjtimex(2), which only reads here. Knows no time.

Under systemd's ProtectClock= the call is forbidden, as it could set the clock too; then nobody can tell.
"""

from __future__ import annotations

import ctypes

_TIME_ERROR = 5  # what adjtimex returns while the clock is not synchronised
_SIZE = 512  # bytes; struct timex has 208 on 64-bit Linux, and its first field, `modes`, is 0 for reading


def synchronised() -> bool | None:
    """None where it cannot be told: no such call, or it is not allowed."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_SIZE))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR
