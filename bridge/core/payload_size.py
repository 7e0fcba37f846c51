"""How many bytes of JSON values would be, without writing them: an expression can name a large value hundreds of times at no cost."""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


class TooLargeError(ValueError):
    """More bytes than there is room for."""


class Measure:
    """Adds up the sizes of values, up to `most` bytes. What comes twice in them, as the very object, is looked at once.

    Each value must live as long as this, as objects are known by their ids.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[int, int] = {}
        self.total = 0

    def __repr__(self) -> str:
        return f"<Measure {self.total} of {self._most} bytes>"

    def add(self, value: Any) -> None:
        """Raises TooLargeError, and what msgspec raises where `value` cannot be written as JSON (RecursionError, TypeError, ValueError)."""
        self.total += self._size(value)
        if self.total > self._most:
            raise TooLargeError

    def _size(self, value: Any) -> int:
        if not isinstance(value, list | dict):
            return len(_encode(value))
        known = self._known.get(id(value))
        if known is not None:
            return known
        size = 2 + max(len(value) - 1, 0)  # Its brackets and commas.
        for each in value.values() if isinstance(value, dict) else value:
            size += self._size(each)
            if size > self._most:
                raise TooLargeError
        if isinstance(value, dict):
            size += sum(len(_encode(name)) + 1 for name in value)
        self._known[id(value)] = size
        return size
