"""How long clients may keep one turn of the event loop, and what waits for the next one.

libuv hands over all that is readable, thousands of sockets at a time, before it looks at a timer again. So when thousands of clients come
at the same moment everybody else waits for all of them. What they ask for is therefore done for `TURN_S` a turn; the rest waits here, those
first who ask for little: who needs a hundred publications lets those go before who come up to 0.1 s later.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

TURN_S = 0.005
"""A turn does other things besides: deliveries, and cheap steps for each socket that became readable."""
COST_S = 0.001
"""So long, for each publication that it is to be sent first, a client lets others go before."""
MOST_COST = 30_000
"""More does not count: who is behind by millions waits no longer than that while there is no end of others."""


class Turns:
    """One process's budget. Ask `is_over` before each small piece of work for a client; where it is, hand the work to `later`.

    Work must be bounded by whoever hands it in: one piece for each connection, one for each channel.
    """

    def __init__(self, clock: Callable[[], float], soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        """`soon` has something called in the next turn of the event loop: the running one's, unless given."""
        self._clock = clock
        self._soon = soon or _soon
        self._until = 0.0
        """When this turn's time is over; 0 where none was used of it yet."""
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def __repr__(self) -> str:
        return f"<Turns {len(self._waiting)} waiting>"

    def __len__(self) -> int:
        return len(self._waiting)

    def is_over(self) -> bool:
        """Whether this turn has had its time."""
        if not self._until:
            self._until = self._clock() + TURN_S
            self._soon(self._begin)
            return False
        return self._clock() >= self._until

    def charge(self, seconds: float) -> None:
        """Take so much off this turn's time: for what was caused in it, and is done after it."""
        if self._until:
            self._until -= seconds

    def later(self, work: Callable[[], None], cost: int = 0) -> None:
        """Do this in a turn to come. `cost` is in publications that are to be sent first."""
        self._count += 1
        heapq.heappush(self._waiting, (self._clock() + min(cost, MOST_COST) * COST_S, self._count, work))
        if not self._until:
            self._until = self._clock() + TURN_S
            self._soon(self._begin)

    async def finish(self, work: Callable[[], bool], cost: int = 0) -> None:
        """Have `work` done now and in turns to come, until it returns True. It looks at `is_over` itself. Raises what it raises."""
        if work():
            return
        rest = _Rest(self, work, cost)
        self.later(rest.go_on, cost)
        await rest.done

    def _begin(self) -> None:
        """A new turn: those who wait go first. What they hand in again waits for the turn after it."""
        self._until = 0.0
        due = len(self._waiting)
        while due and not self.is_over():
            due -= 1
            heapq.heappop(self._waiting)[2]()


class _Rest:
    """Work of which some is left.

    A function that hands itself in again would be a circle, and garbage to be collected.
    """

    __slots__ = ("_cost", "_turns", "_work", "done")

    def __init__(self, turns: Turns, work: Callable[[], bool], cost: int) -> None:
        self._turns = turns
        self._work = work
        self._cost = cost
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def go_on(self) -> None:
        """Do some more of it."""
        if self.done.done():
            return  # Nobody waits for it any more.
        try:
            is_done = self._work()
        except Exception as error:  # noqa: BLE001  (it is whoever waits who must know)
            self.done.set_exception(error)
            return
        if is_done:
            self.done.set_result(None)
        else:
            self._turns.later(self.go_on, self._cost)


def _soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback)
