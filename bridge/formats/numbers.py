"""Numbers as people wrote them."""

from __future__ import annotations

from functools import lru_cache
from struct import pack, unpack
from typing import cast


@lru_cache(maxsize=65_536)
def shortest(value: float) -> float:
    """The 64-bit float with the fewest digits that is the same 32-bit float: 41.76, where the wire's is 41.7599983215332."""
    try:
        single = pack("f", value)
    except OverflowError:
        return value
    for digits in (6, 7, 8, 9):
        shorter = float(f"{value:.{digits}g}")
        try:
            if pack("f", shorter) == single:
                return shorter
        except OverflowError:  # Rounded up beyond the largest.
            continue
    return cast("float", unpack("f", single)[0])
