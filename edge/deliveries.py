"""What is applied and not yet written: each channel's publications of this tick.

One read of the bus may bring what thousands of clients are to be sent at once. It is written for `SLICE_S` a turn of the event loop; the
rest waits here for the next turn, and the bus is not read meanwhile, so little ever waits. What waits is in the channel's stream already:
whoever joins a channel, or moves its stream otherwise than by a live publication, has it written first (`flush`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.core.hub import Channel, Outgoing, write_all
from edge.core.item import Step
from shared.telemetry import Log

log = Log("distributary.edge.deliveries")

SLICE_S = 0.02
LOOK_AFTER = 1_000
"""Writes between two looks at the clock: about 8 ms. One channel's are not parted."""


class Deliveries:
    """Add steps, then `go_on`. Order is kept within a channel, as the bus keeps it."""

    def __init__(
        self,
        clock: Callable[[], float],
        hold: Callable[[bool], object],
        *,
        soon: Callable[[Callable[[], None]], object] | None = None,
        slice_s: float = SLICE_S,
        look_after: int = LOOK_AFTER,
    ) -> None:
        """`hold` is told when the bus should not be read, and when again; `soon` calls something in the loop's next turn."""
        self._clock = clock
        self._hold = hold
        self._soon = soon or _soon
        self._slice_s = slice_s
        self._look_after = look_after
        self._due: dict[Channel, list[Step]] = {}
        self._until = 0.0
        """When this turn's time is over; 0 where none was used of it yet."""
        self._is_holding = False

    def __repr__(self) -> str:
        return f"<Deliveries {len(self._due)} channels due>"

    def __len__(self) -> int:
        return len(self._due)

    def add(self, channel: Channel, step: Step) -> None:
        """Have a step of the channel's stream written to its subscribers."""
        steps = self._due.get(channel)
        if steps is None:
            self._due[channel] = [step]
        else:
            steps.append(step)

    def flush(self, channel: Channel) -> None:
        """Write what is due on this channel now."""
        steps = self._due.pop(channel, None)
        if steps is not None:
            channel.deliver(steps)

    def forget(self, channel: Channel) -> None:
        """The channel is no more."""
        self._due.pop(channel, None)

    def go_on(self) -> None:
        """Write what is due, as far as there is time in this turn; the rest comes by itself."""
        if not self._until:
            self._until = self._clock() + self._slice_s
            self._soon(self._begin_turn)
        elif self._due and self._clock() >= self._until:
            self._tell_held()
            return
        outgoing: list[Outgoing] = []
        writes = 0
        for channel in list(self._due):
            try:
                channel.encode(self._due.pop(channel), outgoing)
            except Exception:  # The other channels' subscribers have no part in it; those of this one see a hole, and come back.
                log.exception("publications could not be written", channel=channel)
            writes += 1 + channel.subscribers
            if writes >= self._look_after:
                write_all(outgoing)
                outgoing.clear()
                writes = 0
                if self._clock() >= self._until:
                    break
        write_all(outgoing)
        self._tell_held()

    def _begin_turn(self) -> None:
        self._until = 0.0
        if self._due or self._is_holding:  # What was due may have been flushed or forgotten since: the bus is read again all the same.
            self.go_on()

    def _tell_held(self) -> None:
        is_held = bool(self._due)
        if is_held is not self._is_holding:
            self._is_holding = is_held
            self._hold(is_held)


def _soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback)
