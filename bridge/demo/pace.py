"""When the records of a recording are due: by the times that are in them, as feeds of GTFS-realtime carry them."""

from __future__ import annotations

from typing import Any

import msgspec

OTHERWISE_S = 1.0
"""Between two records, as long as nothing else is known."""
LONGEST_S = 600.0
"""A recorder that was away for a night is not waited for."""
_MOST_DIGITS = 20
"""Of a time; some thousands of them are no number to Python."""


def time_of_json(data: bytes) -> float | None:
    """When a snapshot was made, in seconds since 1970: its header's time, or the newest one of its vehicles; None where it has neither."""
    value = msgspec.json.decode(data)
    if isinstance(value, dict):
        feed = value.get("response", value)
        header = feed.get("header") if isinstance(feed, dict) else None
        return _seconds(header.get("timestamp")) if isinstance(header, dict) else None
    if not isinstance(value, list):
        return None
    times = [_seconds(entity["vehicle"].get("timestamp")) for entity in value if _has_vehicle(entity)]
    return max((time for time in times if time is not None), default=None)


class Pace:
    """How long to wait before each record of a recording; `interval_s` where the caller says it, for all of them."""

    def __init__(self, interval_s: float | None = None) -> None:
        self._interval_s = interval_s
        self._last_s = OTHERWISE_S
        self._before: float | None = None

    def __repr__(self) -> str:
        return f"Pace({self._last_s:g} s{'' if self._interval_s is None else ', always'})"

    def wait_s(self, time_s: float | None) -> float:
        """Seconds between the record before and this one, which is of `time_s`. Where that does not tell, as long as the last time."""
        if self._interval_s is not None:
            return self._interval_s
        before, self._before = self._before, time_s
        if before is not None and time_s is not None and before < time_s:
            self._last_s = min(time_s - before, LONGEST_S)
        return self._last_s


def _has_vehicle(entity: Any) -> bool:
    return isinstance(entity, dict) and isinstance(entity.get("vehicle"), dict)


def _seconds(value: Any) -> float | None:
    """A time since 1970 as feeds write it: a number, or a number in a text."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS:
        value = int(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11 else None
