"""How long to wait before trying again. Pure: the random number comes from the caller."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Waits that double from `first_s` up to `most_s`, each drawn evenly between `least_s` and that bound ("full jitter").

    The draw spreads the clients of an edge that went away over the whole time, so that they do not all come back at once.
    """

    least_s: float = 0.05
    first_s: float = 1.0
    most_s: float = 30.0

    def delay_s(self, attempt: int, draw: float) -> float:
        """The wait before try number `attempt` (from 0); `draw` is a random number from 0 to 1."""
        bound = min(self.most_s, self.first_s * 2.0 ** min(attempt, 32))
        return self.least_s + max(0.0, bound - self.least_s) * draw
