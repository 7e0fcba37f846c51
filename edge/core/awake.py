"""A clock that stands still while the process does: no client is late because of what happened here.

A virtual machine that pauses, a process that is stopped, a machine with too much to do: then everybody's time is up at once, and what
clients sent meanwhile is not even read. So the time that clients have is counted as this process saw it go by.
"""

from __future__ import annotations

from collections.abc import Callable

TICK_S = 1.0
MOST_S = 2.0
"""Between two ticks. Where it was longer, nobody could use more than TICK_S of it."""


class AwakeClock:
    """Seconds. `tick` every TICK_S."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ticked_at = clock()
        self.asleep_s = 0.0
        """How long the process stood still, all in all."""

    def __repr__(self) -> str:
        return f"<AwakeClock {self():.1f}, {self.asleep_s:.1f} s asleep>"

    def __call__(self) -> float:
        """The time now."""
        return self._clock() - self.asleep_s

    def tick(self) -> None:
        """Note whether the time since the last tick went by as it should."""
        now = self._clock()
        if now - self._ticked_at > MOST_S:
            self.asleep_s += now - self._ticked_at - TICK_S
        self._ticked_at = now
