"""Sizes and durations as people write them, read strictly: a wrong guess of a unit is off by a thousand."""

from __future__ import annotations

import re

_SIZE_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_DURATION_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_size(value: object) -> int:
    """Bytes from an integer (bytes) or a text such as `64KB` or `1MiB`. Raises ValueError, saying what to write instead."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number, unit = _split(value, "a size is a number of bytes, or a number and a unit, such as 1MiB")
    if unit not in _SIZE_UNITS:
        msg = f"{unit!r} is no unit of size; units are {', '.join(_SIZE_UNITS)}{_size_hint(number, unit)}"
        raise ValueError(msg)
    return number * _SIZE_UNITS[unit]


def parse_duration_ms(value: object) -> int:
    """Milliseconds from a text such as `500ms`, `10m` or `24h`, or from 0. Raises ValueError, saying what to write instead."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value == 0:
            return 0
        msg = f"{value} has no unit; did you mean {value}s?"
        raise ValueError(msg)
    number, unit = _split(value, "a duration is a number and a unit, such as 500ms, 10m or 24h")
    if unit not in _DURATION_UNITS_MS:
        msg = f"{unit!r} is no unit of time; units are {', '.join(_DURATION_UNITS_MS)}"
        raise ValueError(msg)
    return number * _DURATION_UNITS_MS[unit]


def format_size(size: int) -> str:
    """Write `size` bytes with the largest unit that divides it."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def format_duration(duration_ms: int) -> str:
    """Write `duration_ms` with the largest unit that divides it; 24h stays 24h."""
    for unit in ("h", "m", "s"):
        if duration_ms and duration_ms % _DURATION_UNITS_MS[unit] == 0:
            return f"{duration_ms // _DURATION_UNITS_MS[unit]}{unit}"
    return f"{duration_ms}ms"


def _split(value: object, what: str) -> tuple[int, str]:
    match = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]+)", value) if isinstance(value, str) else None
    if match is None:
        shown = f"; {value!r} is not" if isinstance(value, str | int | float) and len(str(value)) <= 40 else ""
        msg = what + shown
        raise ValueError(msg)
    return int(match[1]), match[2]


def _size_hint(number: int, unit: str) -> str:
    letter = unit[0].upper()
    if letter not in "KMG":
        return ""
    return f"; did you mean {number}{letter}iB ({2**10 if letter == 'K' else 2**20 if letter == 'M' else 2**30:,} bytes each)?"
