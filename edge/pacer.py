"""Drives one paced subscription: when the channel, the client's acknowledgements, its socket or the clock say so, it sends what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.core.item import Item
from edge.core.paced import MOST_AT_ONCE, PacedSubscription
from edge.core.stream import Gap
from edge.ports import Bus, ClientPipe
from shared.envelope import epoch_to_text
from shared.errors import BusUnavailableError

PAGE_MARGIN = 16
"""Read so many more than are wanted: the bus may be ahead of this edge by what is on its way."""
RETRY_S = 1.0


class Pacer:
    """One paced subscription and what moves it. Compared by identity."""

    __slots__ = ("_bus", "_clock", "_is_over", "_pipe", "_task", "_timer", "subscription")

    def __init__(self, subscription: PacedSubscription, pipe: ClientPipe, bus: Bus, clock: Callable[[], float]) -> None:
        self.subscription = subscription
        self._pipe = pipe
        self._bus = bus
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Pacer {self.subscription!r}{' reading' if self._task else ''}>"

    def poke(self) -> None:
        """Send what may be sent now."""
        if self._timer is not None or self._task is not None or self._is_over:
            return
        due = self.subscription.advance(self._clock(), is_writable=self._pipe.is_writable)
        if due.frames:
            self._pipe.write(due.frames)
        loop = asyncio.get_running_loop()
        if due.wake_at:
            self._timer = loop.call_later(max(0.0, due.wake_at - self._clock()), self._wake)
        elif due.page_after >= 0:
            self._task = loop.create_task(self._read_page())

    def acknowledge(self, offset: int) -> None:
        """The client has handled everything up to `offset`."""
        self.subscription.acknowledge(offset)
        self.poke()

    def on_gap(self, gap: Gap) -> None:
        """See `edge.core.hub.Paced`."""
        self._pipe.write(self.subscription.tell_gap(gap))
        self.poke()

    def leave(self) -> None:
        """End it."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.subscription.channel.remove_paced(self)

    def _wake(self) -> None:
        self._timer = None
        self.poke()

    async def _read_page(self) -> None:
        """Read what follows the cursor from the bus, send it, and go on."""
        try:
            margin = PAGE_MARGIN
            while not await self._take_page(margin):
                margin *= 4
        except BusUnavailableError:
            # What it waits for is safe in the history: later, then.
            await asyncio.sleep(RETRY_S)
        finally:
            self._task = None
        self.poke()

    async def _take_page(self, margin: int) -> bool:
        """Read one page. False where it must be read again with a larger margin: the bus was further ahead than that."""
        subscription, stream = self.subscription, self.subscription.channel.stream
        epoch, behind = stream.epoch, stream.offset - subscription.cursor
        wanted = min(behind, subscription.delivery.window, MOST_AT_ONCE)
        count = wanted + margin
        history = await self._bus.read(subscription.channel.label.name, count, behind - wanted)
        envelopes = history.envelopes
        if epoch is None or stream.epoch != epoch or (envelopes and epoch_to_text(envelopes[-1].epoch) != epoch):
            return True  # Another epoch: the gap is told, or will be, by whoever reads the channel for all.
        items = [Item(epoch, envelope, envelope.body) for envelope in envelopes]
        before = subscription.cursor
        frames = subscription.take_page(items, is_all=len(items) < count)
        if frames:
            self._pipe.write(frames)
        return subscription.cursor != before or len(items) < count
