"""How many clients may come in a second: some at once, some soon, the others later, spread.

Admitting a client costs a handshake, a session and its subscriptions; thousands of them at once would keep all others waiting. So they
come in at a bounded rate. Those above it wait in order, for a second or two at most; who would wait longer is sent away with a time to come
back at, one after the other, as if the queue went on outside.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_WAIT_S = 1.0
BURST_S = 0.05
"""What may come at once, in seconds of the rate: it is what one turn of the event loop may have to do."""
MAX_RETRY_AFTER_S = 60
RETRY_SPREAD_S = 3.0


class Verdict(Enum):
    """What becomes of someone at the gate."""

    ADMITTED = "admitted"
    WAITS = "waits"
    REFUSED = "refused"


class Gate(Generic[T]):
    """Admits `rate` a second, in order. A rate of 0 is no bound."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate * BURST_S)
        self._tokens = self._burst
        self._at = now
        self._max_waiting = int(rate * MAX_WAIT_S)
        self._waiting: deque[T] = deque()
        self._outside_until = now
        """When the last of those sent away should be back."""
        self.refused = 0

    def __repr__(self) -> str:
        return f"<Gate {self._rate:g} a second, {len(self._waiting)} waiting, {self.refused} refused>"

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, who: T, now: float) -> Verdict:
        """Decide on a newcomer. One that WAITS comes out of `due` later."""
        if not self._rate:
            return Verdict.ADMITTED
        self._refill(now)
        if self._tokens >= 1 and not self._waiting:
            self._tokens -= 1
            return Verdict.ADMITTED
        if len(self._waiting) < self._max_waiting:
            self._waiting.append(who)
            return Verdict.WAITS
        self.refused += 1
        return Verdict.REFUSED

    def due(self, now: float) -> list[T]:
        """Those whose turn has come, in order."""
        self._refill(now)
        count = min(int(self._tokens), len(self._waiting))
        self._tokens -= count
        return [self._waiting.popleft() for _ in range(count)]

    def retry_after_s(self, now: float, chance: float) -> int:
        """Whole seconds after which one who was sent away should be back: when those sent away before will be in, and some jitter.

        `chance` is random, from 0 to below 1.
        """
        if self._rate:
            self._outside_until = min(max(self._outside_until, now) + 1 / self._rate, now + MAX_RETRY_AFTER_S)
        wait_s = max(0.0, self._outside_until - now)
        return 1 + int(min(wait_s + chance * RETRY_SPREAD_S, MAX_RETRY_AFTER_S - 1))

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
