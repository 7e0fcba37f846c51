"""Drives one paced subscription: when the channel, the client's acknowledgements, its socket or the clock say so, it sends what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from edge.core.item import Item, item_of
from edge.core.paced import MOST_AT_ONCE, PacedSubscription
from edge.core.stream import Gap
from edge.ports import Bus, ClientPipe
from shared.envelope import epoch_to_text
from shared.errors import BusUnavailableError

PAGE_MARGIN = 16
"""Read so many more than are wanted: the bus may be ahead of this edge by what is on its way."""
PAGE_BYTES = 1_048_576
"""About as much is read at once, judged by the newest publication."""
RETRY_S = 1.0

Verify = Callable[[Sequence[str], str], None]
"""Has channels read from the bus, as `edge.ports.BusEvents.on_verify` does."""


class Pacer:
    """One paced subscription and what moves it. Compared by identity."""

    __slots__ = ("_bus", "_clock", "_is_over", "_pipe", "_task", "_timer", "_verify", "subscription")

    def __init__(self, subscription: PacedSubscription, pipe: ClientPipe, bus: Bus, clock: Callable[[], float], verify: Verify) -> None:
        self.subscription = subscription
        self._pipe = pipe
        self._bus = bus
        self._clock = clock
        self._verify = verify
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Pacer {self.subscription!r}{' reading' if self._task else ''}>"

    def poke(self) -> None:
        """Send what may be sent now."""
        if self._timer is not None or self._task is not None or self._is_over:
            return
        # Again after each part: nobody pokes for the rest, since a client may acknowledge only when its window is full.
        while (due := self.subscription.advance(self._clock(), is_writable=self._pipe.is_writable)).frames:
            self._write(due.frames)
        loop = asyncio.get_running_loop()
        if due.wake_at:
            self._timer = loop.call_later(max(0.0, due.wake_at - self._clock()), self._wake)
        elif due.page_after >= 0:
            self._task = loop.create_task(self._read_pages())

    def acknowledge(self, offset: int, epoch: str | None = None) -> None:
        """The client has handled everything up to `offset`."""
        self.subscription.acknowledge(offset, epoch)
        self.poke()

    def on_gap(self, gap: Gap) -> None:
        """See `edge.core.hub.Paced`."""
        frame = self.subscription.tell_gap(gap)
        if frame:
            self._pipe.write(frame)
        self.poke()

    def leave(self) -> None:
        """End it."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.subscription.channel.remove_paced(self)

    def _write(self, frames: bytes) -> None:
        # It was the client's turn: one publication larger than the outbox does not make it a slow consumer.
        self._pipe.allow_burst(len(frames))
        self._pipe.write(frames)

    def _wake(self) -> None:
        self._timer = None
        self.poke()

    async def _read_pages(self) -> None:
        """Read what follows the cursor from the bus, send it, and go on."""
        try:
            if not await self._take_page():
                # The bus has another stream than this edge, or none: whoever reads the channel for all finds out, and tells the gap.
                self._verify([self.subscription.channel.label.name], "a page of its history is not there")
                await asyncio.sleep(RETRY_S)
        except BusUnavailableError:
            # What it waits for is safe in the history: later, then.
            await asyncio.sleep(RETRY_S)
        finally:
            self._task = None
        self.poke()

    async def _take_page(self) -> bool:
        """Read one page and send what there is room for. False where there is nothing to go on with."""
        subscription, stream = self.subscription, self.subscription.channel.stream
        epoch, before, margin = stream.epoch, subscription.cursor, PAGE_MARGIN
        while True:
            items, is_all = await self._read_page(margin)
            if epoch is None or stream.epoch != epoch or not items or items[-1].epoch != epoch:
                return stream.epoch != epoch
            frames = subscription.take_page(items, is_all=is_all)
            if frames:
                self._write(frames)
            if is_all or subscription.cursor != before:
                return subscription.cursor != before
            margin *= 4  # The bus was further ahead of this edge than that.

    async def _read_page(self, margin: int) -> tuple[list[Item], bool]:
        """What follows the cursor, and whether the bus holds nothing before it."""
        subscription, stream = self.subscription, self.subscription.channel.stream
        name, behind = subscription.channel.label.name, stream.offset - subscription.cursor
        size = len(stream.newest.payload) if stream.newest is not None else 0
        wanted = max(1, min(behind, subscription.room, MOST_AT_ONCE, PAGE_BYTES // (size + 1)))
        count = wanted + margin
        history = await self._bus.read(name, count, max(0, behind - wanted))
        is_all = len(history.envelopes) < count
        if not history.envelopes:
            # The history ends (by far) after what is wanted: it goes on with the oldest that there is.
            history = await self._bus.read_oldest(name, wanted)
        return [item_of(epoch_to_text(envelope.epoch), envelope, envelope.body) for envelope in history.envelopes], is_all
