"""Going through all channels in use, some a turn of the event loop: with 100,000 of them to take them up at once would be 0.3 s."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edge.turns import Turns
from shared.telemetry import Log

log = Log("distributary.edge.bus")

CHANNELS_A_LOOK = 500
"""Between two looks at the clock: about 2 ms."""


class Round:
    """What there was when it began is handed to `visit`, a part at a time, until that returns False. `visit` sees what still holds."""

    __slots__ = ("_at", "_channels", "_turns", "_visit")

    def __init__(self, turns: Turns, channels: Iterable[str], visit: Callable[[list[str]], bool]) -> None:
        self._turns = turns
        self._channels = list(channels)
        self._visit = visit
        self._at = 0

    def __repr__(self) -> str:
        return f"<Round {self._at} of {len(self._channels)} channels>"

    def go_on(self) -> None:
        """Hand out as many as this turn has time for; the others come by themselves."""
        while self._at < len(self._channels):
            if self._turns.is_over():
                self._turns.later(self.go_on)
                return
            some = self._channels[self._at : self._at + CHANNELS_A_LOOK]
            self._at += len(some)
            try:
                if not self._visit(some):
                    return
            except Exception:  # The others have no part in it, and nobody would come back for them.
                log.exception("some channels could not be looked after", channels=len(some))
