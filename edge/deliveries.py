"""What is applied and not yet written: each channel's publications of this tick.

One read of the bus may bring what thousands of clients are to be sent at once. It is written for `SLICE_S` a turn of the event loop; the
rest waits here for the next turn, and the bus is not read meanwhile, so little ever waits. What waits is in the channel's stream already:
whoever moves its stream otherwise than by a live publication has it written first (`flush`), and whoever joins it is not among those whom
it is for (`close_to_newcomers`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from edge.core.hub import Channel, Outgoing, write_all
from edge.core.item import Step
from shared.telemetry import Log

log = Log("distributary.edge.deliveries")

SLICE_S = 0.02
LOOK_AFTER = 1_000
"""Writes between two looks at the clock: about 8 ms."""
MANY = 2_000
"""A channel with more subscribers is written to in parts: 15,000 at once would be 100 ms."""
MAX_DUE_BYTES = 1_048_576
"""Of payloads that wait behind others of their channels. One read of the bus may bring a thousand deltas of 100 bytes to a payload of
100,000: after so many bytes they are encoded at once, and the payloads let go."""


class _Parts:
    """Publications of one channel that are encoded, and written to some of its subscribers at a time."""

    __slots__ = ("_audiences", "_paced", "channel")

    def __init__(self, channel: Channel, steps: Sequence[Step]) -> None:
        self.channel = channel
        audiences, paced = channel.encode_for_all(steps)
        self._audiences = deque((iter(subscriptions), frames) for subscriptions, frames in audiences)
        self._paced = iter(paced)

    def write(self, most: int) -> bool:
        """Write to the next ones, not many more than `most`; True where there are none left."""
        while most > 0 and self._audiences:
            subscriptions, frames = self._audiences[0]
            some = [subscription.write for subscription in islice(subscriptions, most)]
            write_all([(some, frames)])
            if len(some) < most:
                self._audiences.popleft()
            most -= len(some)
        # One of these may join the channel, and want the rest of it written: whoever comes out of the iterator does so once.
        for subscriber in islice(self._paced, max(0, most)):
            subscriber.poke()
            most -= 1
        return most > 0


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
        many: int = MANY,
        max_due_bytes: int = MAX_DUE_BYTES,
    ) -> None:
        """`hold` is told when the bus should not be read, and when again; `soon` calls something in the loop's next turn."""
        self._clock = clock
        self._hold = hold
        self._soon = soon or _soon
        self._slice_s = slice_s
        self._look_after = look_after
        self._many = many
        self._max_due_bytes = max_due_bytes
        self._due_bytes = 0
        """Of payloads in `_due` behind others of their channels, at most: what left it otherwise than by `_encode_due` counts on."""
        self._due: dict[Channel, list[Step]] = {}
        self._parts: deque[_Parts] = deque()
        """What is encoded and on its way, in order: goes before what is due."""
        self._until = 0.0
        """When this turn's time is over; 0 where none was used of it yet."""
        self._is_holding = False

    def __repr__(self) -> str:
        return f"<Deliveries {len(self._due)} channels due, {len(self._parts)} on the way>"

    def __len__(self) -> int:
        return len(self._due) + len(self._parts)

    def add(self, channel: Channel, step: Step) -> None:
        """Have a step of the channel's stream written to its subscribers."""
        steps = self._due.get(channel)
        if steps is None:
            self._due[channel] = [step]
            return
        steps.append(step)
        self._due_bytes += len(step.item.payload)
        if self._due_bytes > self._max_due_bytes:
            self._encode_due()

    def flush(self, channel: Channel) -> None:
        """Write what is due on this channel now, to all."""
        if not any(parts.channel is channel for parts in self._parts):
            steps = self._due.pop(channel, None)
            if steps is not None:
                channel.deliver(steps)
            return
        # Encoded before any of it is written: who is told may join the channel then, and have no part in what is due.
        self._part(channel)
        while parts := next((parts for parts in self._parts if parts.channel is channel), None):
            self._write_some(parts, LOOK_AFTER)

    def close_to_newcomers(self, channel: Channel) -> None:
        """Somebody joins who holds the newest publication: what is due is for those who are there now, whenever it is written."""
        if channel not in self._due:
            return
        if channel.subscribers > self._many:
            self._part(channel)
        else:
            self.flush(channel)

    def forget(self, channel: Channel) -> None:
        """The channel is no more."""
        self._due.pop(channel, None)
        self._parts = deque(parts for parts in self._parts if parts.channel is not channel)

    def go_on(self) -> None:
        """Write what is due, as far as there is time in this turn; the rest comes by itself."""
        if not self._until:
            self._until = self._clock() + self._slice_s
            self._soon(self._begin_turn)
        elif len(self) and self._clock() >= self._until:
            self._tell_held()
            return
        while self._write_parts() and self._due and self._write_due():
            pass
        self._tell_held()

    def _encode_due(self) -> None:
        """Encode what waits behind others of its channel, so that their payloads need not be held; it is on its way then."""
        self._due_bytes = 0
        for channel in [channel for channel, steps in self._due.items() if len(steps) > 1]:
            try:
                self._parts.append(_Parts(channel, self._due.pop(channel)))
            except Exception:  # As in `_write_due`.
                log.exception("publications could not be written", channel=channel)

    def _write_parts(self) -> bool:
        """Go on with what is on its way; True where all of it is written, and there is time for more."""
        while self._parts:
            self._write_some(self._parts[0], self._look_after)
            if self._clock() >= self._until:
                return False
        return True

    def _write_some(self, parts: _Parts, most: int) -> None:
        """Go on with one that is on its way, and take it away where all of it is written."""
        try:
            is_written = parts.write(most)
        except Exception:  # It is past the one that failed, and goes on with the others.
            log.exception("publications could not be written", channel=parts.channel)
            return
        if is_written and parts in self._parts:  # Else somebody who was told had the rest of it written.
            self._parts.remove(parts)

    def _part(self, channel: Channel) -> None:
        """What is due on this channel is on its way."""
        steps = self._due.pop(channel, None)
        if steps is not None:
            self._parts.append(_Parts(channel, steps))

    def _write_due(self) -> bool:
        """Write what is due, up to a channel of many subscribers, which is on its way then; True where there is time for more."""
        outgoing: list[Outgoing] = []
        writes, is_in_time = 0, True
        for channel in list(self._due):
            steps = self._due.pop(channel, None)
            if steps is None:
                continue  # Somebody who was told of another channel's has joined this one.
            try:
                if channel.subscribers > self._many:
                    self._parts.append(_Parts(channel, steps))
                    break
                channel.encode(steps, outgoing)
            except Exception:  # The other channels' subscribers have no part in it; those of this one see a hole, and come back.
                log.exception("publications could not be written", channel=channel)
            writes += 1 + channel.subscribers
            if writes >= self._look_after:
                write_all(outgoing)
                outgoing.clear()
                writes = 0
                is_in_time = self._clock() < self._until
                if not is_in_time:
                    break
        write_all(outgoing)
        if not self._due:
            self._due_bytes = 0
        return is_in_time

    def _begin_turn(self) -> None:
        self._until = 0.0
        if len(self) or self._is_holding:  # What was due may have been flushed or forgotten since: the bus is read again all the same.
            self.go_on()

    def _tell_held(self) -> None:
        is_held = len(self) > 0
        if is_held is not self._is_holding:
            self._is_holding = is_held
            self._hold(is_held)


def _soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback)
