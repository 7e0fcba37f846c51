"""Makes values of bytes, so that every input of a fuzzer is a valid one, and near inputs make near values."""

from __future__ import annotations

from typing import Any

_NAMES = ("a", "b", "id", "lat", "", "~", "/", "ä", "0", "longer name")
_TEXTS = ("", "a", "x" * 20, "ä~/", "2024-01-05", '"\\\n')
_MAX_DEPTH = 5


class Source:
    """Bytes, taken from the front; zeros where there are no more."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """The next byte."""
        at = self._at
        self._at += 1
        return self._data[at] if at < len(self._data) else 0

    def take(self, count: int) -> bytes:
        """The next bytes, or fewer."""
        at = self._at
        self._at += count
        return self._data[at : at + count]

    def rest(self) -> bytes:
        """All that are left."""
        return self._data[self._at :]

    def value(self, depth: int = 0) -> Any:
        """A JSON value."""
        kind = self.byte()
        if kind < 60 or depth > _MAX_DEPTH:
            return (None, True, False, kind, kind * 1_000_003, -kind / 8)[kind % 6]
        if kind < 120:
            return _TEXTS[kind % len(_TEXTS)] + "z" * (kind % 3)
        if kind < 190:
            return [self.value(depth + 1) for _ in range(kind % 6)]
        return {self.name(): self.value(depth + 1) for _ in range(kind % 6)}

    def name(self) -> str:
        """A member's name."""
        return _NAMES[self.byte() % len(_NAMES)]

    def changed(self, value: Any, depth: int = 0) -> Any:
        """The same value with some changes."""
        what = self.byte()
        if what < 40:
            return self.value(depth)
        if isinstance(value, dict):
            return self._changed_object(value, what, depth)
        if isinstance(value, list):
            return self._changed_array(value, what, depth)
        return value

    def _changed_object(self, value: dict[str, Any], what: int, depth: int) -> dict[str, Any]:
        found = {name: self.changed(member, depth + 1) for name, member in value.items() if what % 7 or self.byte() % 3}
        if what % 5 == 0:
            found[self.name()] = self.value(depth + 1)
        return found

    def _changed_array(self, value: list[Any], what: int, depth: int) -> list[Any]:
        found = [self.changed(member, depth + 1) for member in value if what % 7 or self.byte() % 3]
        if what % 5 == 0:
            found.insert(self.byte() % (len(found) + 1), self.value(depth + 1))
        if what % 11 == 0:
            found.reverse()
        return found
