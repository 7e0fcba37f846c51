"""How much an edge holds: of each channel, and of all together."""

from __future__ import annotations

from edge.core.keyed import StateBounds, StateTooLargeError, check_bounds
from edge.core.limits import Limits
from edge.lane import Lane

ITEM_BYTES = 220
"""What a publication in a ring takes besides its payload (measured: 140 to 215 with CPython 3.11), and is counted with."""


class Holdings:
    """The bytes in the rings and in the states of keyed channels. Have a lane counted whenever it may hold more or less than before."""

    def __init__(self, limits: Limits) -> None:
        self.ring_bytes = 0
        """In all rings: those of the payloads, and ITEM_BYTES each."""
        self._limits = limits
        self._state_bytes = 0

    def __repr__(self) -> str:
        return f"<Holdings {self.ring_bytes} bytes in rings, {self._state_bytes} of states>"

    def count(self, lane: Lane) -> None:
        """Note how much a channel holds. Raises StateTooLargeError where a keyed one holds too much."""
        stream = lane.channel.stream
        now, before = stream.bytes_held + ITEM_BYTES * len(stream.ring), lane.counted_bytes
        if now != before:
            if self.ring_bytes + now - before > self._limits.max_ring_bytes:
                stream.shrink()
                now = stream.bytes_held + ITEM_BYTES * len(stream.ring)
            lane.counted_bytes = now
            self.ring_bytes += now - before
        if stream.keyed is not None:
            self.count_state(lane)

    def count_state(self, lane: Lane) -> None:
        """Note how large a channel's state is. Raises StateTooLargeError."""
        keyed, limits = lane.channel.stream.keyed, self._limits
        held = 0 if keyed is None else keyed.bytes_held
        self._state_bytes += held - lane.counted_state_bytes
        lane.counted_state_bytes = held
        if keyed is not None:
            check_bounds(StateBounds(limits.max_keys, limits.max_state_bytes), len(keyed), held)
        if self._state_bytes > limits.max_all_state_bytes:
            msg = f"the keyed channels of this edge have more than {limits.max_all_state_bytes} bytes"
            raise StateTooLargeError(msg)

    def bounds_for(self, lane: Lane) -> StateBounds:
        """How large the channel's state may be, if it is read now."""
        left = self._limits.max_all_state_bytes - self._state_bytes + lane.counted_state_bytes
        return StateBounds(self._limits.max_keys, min(self._limits.max_state_bytes, left))

    def forget(self, lane: Lane) -> None:
        """The channel is no more."""
        self.ring_bytes -= lane.counted_bytes
        self._state_bytes -= lane.counted_state_bytes
