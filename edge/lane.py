"""A channel between the bus and its subscribers, and those who wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from edge.core.hub import Channel
from edge.core.protocol import CommandError, Subscribe
from edge.core.recovery import PacedStart, Start
from edge.keys import MAX_EARLY, MAX_EARLY_BYTES
from shared.envelope import Envelope

MAX_WAITING_ENVELOPES = 1_000
"""Of one lane that is not live. Beyond it they are dropped, and the bus is read once more."""


class Subscriber(Protocol):
    """Who asks for a channel. One of `begin`, `begin_paced` and `refuse` is called, once, possibly before `Node.subscribe` returns."""

    @property
    def is_closed(self) -> bool:
        """Whether nobody waits for the answer any more."""

    def postpones(self, request: Subscribe) -> bool:
        """Whether it cannot be begun now; then the subscriber comes again by itself."""

    def begin(self, request: Subscribe, channel: Channel, start: Start) -> None:
        """Send the start and join the channel, in this turn of the event loop."""

    def begin_paced(self, request: Subscribe, channel: Channel, start: PacedStart) -> None:
        """As `begin`, for a subscription in mode conflate or ack."""

    def refuse(self, request: Subscribe, error: CommandError) -> None:
        """Tell that it did not work."""


class Waiting:
    """A subscribe that waits for the bus."""

    __slots__ = ("is_checked", "request", "subscriber")

    def __init__(self, request: Subscribe, subscriber: Subscriber) -> None:
        self.request = request
        self.subscriber = subscriber
        self.is_checked = False
        """Whether the bus was read since it came: a position that is not known then is wrong."""


_NOBODY: deque[Waiting] = deque(maxlen=0)
"""Of every channel that nobody waits for: an empty deque takes 0.6 KB. `Lane.wait` makes another one."""


class Lane:
    """One channel in use. While it is live, what comes from the bus is delivered; else it waits. Compared by identity."""

    __slots__ = (
        "again",
        "channel",
        "counted_bytes",
        "counted_state_bytes",
        "early",
        "early_bytes",
        "is_live",
        "is_reading_keys",
        "nap",
        "refused_until",
        "task",
        "waiting",
    )

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.is_live = False
        self.waiting = _NOBODY
        self.early: list[Envelope] = []
        """What came from the bus while the lane is not live."""
        self.task: asyncio.Task[None] | None = None
        """Reads the bus."""
        self.again = False
        """Whether the bus must be read once more after the read under way."""
        self.nap: asyncio.Event | None = None
        """Ends the pause between two tries; None where there is none."""
        self.counted_bytes = 0
        self.counted_state_bytes = 0
        self.early_bytes = 0
        self.is_reading_keys = False
        self.refused_until = 0.0
        """The state was too large: it is not read again before that."""

    def __repr__(self) -> str:
        return f"<Lane {self.channel!r} {'live' if self.is_live else 'reading'} {len(self.waiting)} waiting>"

    @property
    def name(self) -> str:
        """The channel's."""
        return self.channel.label.name

    @property
    def is_unused(self) -> bool:
        """Whether nobody has a subscription, waits for one, or reads the bus for it."""
        return not self.channel.subscribers and not self.waiting and self.task is None

    def wait(self, waiting: Waiting) -> None:
        """Have somebody wait for the bus."""
        if self.waiting is _NOBODY:
            self.waiting = deque()
        self.waiting.append(waiting)

    def end_waiting(self) -> None:
        """Keep no place for those who wait, where nobody does."""
        if not self.waiting:
            self.waiting = _NOBODY

    def refuse_waiting(self, error: Callable[[Subscribe], CommandError]) -> None:
        """Tell all who wait that it did not work."""
        all_waiting, self.waiting = self.waiting, deque()  # Whoever was starting some of them puts others back.
        for waiting in all_waiting:
            if not waiting.subscriber.is_closed:
                waiting.subscriber.refuse(waiting.request, error(waiting.request))

    def is_in_doubt(self, waiting: Waiting) -> bool:
        """Whether the bus must be asked before a position can be called wrong: another edge may have been quicker."""
        position = waiting.request.position
        return position is not None and not waiting.is_checked and not self.channel.stream.knows(position)

    def keep_early(self, envelope: Envelope) -> bool:
        """Keep what comes while the lane is not live; False where that is too much."""
        if self.is_reading_keys:
            if len(self.early) >= MAX_EARLY or self.early_bytes >= MAX_EARLY_BYTES:
                return False
            self.early_bytes += len(envelope.body)
        elif len(self.early) >= MAX_WAITING_ENVELOPES:
            return False
        self.early.append(envelope)
        return True
