"""Back-off: how long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Waits that double from `first_s` to at most `most_s`, each with jitter so that many bridges do not come back at once.

    `random` gives a number from 0 to 1.
    """

    def __init__(self, *, first_s: float, most_s: float, random: Callable[[], float]) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._random = random
        self._next_s = first_s

    def __repr__(self) -> str:
        return f"<Backoff, next about {self._next_s:g} s>"

    def next_s(self) -> float:
        """The next wait: between half of the present length and all of it."""
        wait_s = self._next_s * (0.5 + 0.5 * self._random())
        self._next_s = min(2 * self._next_s, self._most_s)
        return wait_s

    def reset(self) -> None:
        """It worked: the next wait is short again."""
        self._next_s = self._first_s
