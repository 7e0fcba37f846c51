"""How far back the bus is read: one read is to serve a channel and all who wait for it, without reading what nobody asks for."""

from __future__ import annotations

from edge.core.delivery import Mode
from edge.core.limits import Limits
from edge.lane import Lane
from edge.ports import ChannelHistory

FIRST_REACH = 32
"""Publications of a channel that are read at once where somebody comes with a position, until it is known how far behind they are."""
REACH_BYTES = 262_144
"""About as much is read on such a guess, at most."""
READ_MARGIN = 8
"""Read so many more than are wanted: publications go on while the bus is read."""


class Reach:
    """A guess that gets better: in a storm, clients of all channels are behind by about as much."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reach = FIRST_REACH
        """How many publications those who come with a position are behind by, about."""
        self._payload_bytes = 1_024.0
        """What a publication has that is read, about."""

    def __repr__(self) -> str:
        return f"<Reach {self._reach} publications of {self._payload_bytes:.0f} bytes>"

    def wanted(self, lane: Lane) -> int:
        """How many of the newest publications to read, so that one read serves the channel and all who wait for it."""
        stream, wanted, is_guess = lane.channel.stream, 1, False
        for waiting in lane.waiting:
            position, rewind, mode = waiting.request.position, waiting.request.rewind, waiting.request.delivery.mode
            if position is not None:
                is_guess = is_guess or mode is not Mode.CONFLATE
                if position.epoch == stream.epoch and position.offset > stream.offset:
                    wanted = max(wanted, position.offset - stream.offset + READ_MARGIN)
            elif rewind is not None:
                wanted = max(wanted, self._limits.max_recovery_items if rewind.age_ms else rewind.count)
        if is_guess:
            wanted = max(wanted, min(self._reach, int(REACH_BYTES / self._payload_bytes)))
        return min(wanted, self._limits.max_recovery_items)

    def learn(self, lane: Lane, history: ChannelHistory) -> None:
        """Guess better the next time, from what was read and from those who wait."""
        stream, envelopes = lane.channel.stream, history.envelopes
        if envelopes:
            mean = sum(len(envelope.body) for envelope in envelopes) / len(envelopes)
            self._payload_bytes = max(mean + 1, self._payload_bytes + (mean - self._payload_bytes) / 8)
        positions = (waiting.request.position for waiting in lane.waiting)
        behind = [stream.offset - position.offset for position in positions if position is not None and position.epoch == stream.epoch]
        if behind:
            # One who was away for long counts for little: each channel at most doubles it.
            reach = max(int(self._reach * 0.9), min(max(behind) + READ_MARGIN, 2 * self._reach))
            self._reach = max(FIRST_REACH, min(reach, self._limits.ring_items))
