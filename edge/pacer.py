"""Drives one paced subscription: when the channel, the client's acknowledgements, its socket or the clock say so, it sends what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from edge.core.delivery import Mode
from edge.core.item import Item, item_of, keyed_item_of
from edge.core.paced import MOST_AT_ONCE, PacedSubscription
from edge.core.paced_keyed import KeyedPaced
from edge.core.stream import Gap
from edge.core.variant import full_frame
from edge.ports import Bus, ClientPipe
from edge.turns import MOST_COST, Turns
from shared.envelope import epoch_to_text
from shared.errors import BusUnavailableError

PAGE_MARGIN = 16
"""Read so many more than are wanted: the bus may be ahead of this edge by what is on its way."""
PAGE_BYTES = 1_048_576
"""About as much is read at once, judged by the newest publication."""
RETRY_S = 1.0
NEAR = 16
"""Publications behind the newest one: who is further away waits for a turn of the event loop that has time."""
PARTS_A_TURN = 8
"""Sent to one subscriber in one turn of the event loop: the socket may take megabytes, and others wait."""

Verify = Callable[[Sequence[str], str], None]
"""Has channels read from the bus, as `edge.ports.BusEvents.on_verify` does."""


class PacerHolder(Protocol):
    """Who holds a paced subscription."""

    def on_whole(self, pacer: Pacer) -> None:
        """In mode queue: the client was sent all, and is a member of the channel's groups from now on. The pacer has left the channel."""

    def on_too_large(self, pacer: Pacer, why: str) -> None:
        """The channel's state is larger than this edge holds: the subscription is over. The pacer has left the channel."""


class Pacer:
    """One paced subscription and what moves it. Compared by identity."""

    __slots__ = ("_bus", "_clock", "_holder", "_is_over", "_is_waiting", "_pipe", "_task", "_timer", "_turns", "_verify", "subscription")

    def __init__(
        self,
        subscription: PacedSubscription,
        pipe: ClientPipe,
        bus: Bus,
        clock: Callable[[], float],
        turns: Turns,
        verify: Verify,
        holder: PacerHolder,
    ) -> None:
        self.subscription = subscription
        self._holder = holder
        self._pipe = pipe
        self._bus = bus
        self._clock = clock
        self._turns = turns
        self._is_waiting = False
        """For a turn of the event loop that has time for it."""
        self._verify = verify
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Pacer {self.subscription!r}{' reading' if self._task else ''}>"

    def poke(self) -> None:
        """Send what may be sent now."""
        if self._timer is not None or self._task is not None or self._is_waiting or self._is_over:
            return
        self._adapt()
        if not self._must_wait():
            self._send()

    def _send(self) -> None:
        parts = 0
        # Again after each part: nobody pokes for the rest, since a client may acknowledge only when its window is full.
        while (due := self.subscription.advance(self._clock(), is_writable=self._pipe.is_writable)).frames or due.is_more:
            if due.frames:
                self._write(due.frames)
            if due.is_whole and self.subscription.delivery.mode is Mode.QUEUE:
                self._join()
                return
            if self._must_wait():
                return
            parts += 1
            if parts >= PARTS_A_TURN:
                self._timer = asyncio.get_running_loop().call_later(0, self._wake)
                return
        if due.wake_at:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due.wake_at - self._clock()), self._wake)
        elif due.page_after >= 0:
            self._task = asyncio.get_running_loop().create_task(self._read_pages())

    def acknowledge(self, offset: int, epoch: str | None = None) -> None:
        """The client has handled everything up to `offset`."""
        self.subscription.acknowledge(offset, epoch)
        self.poke()

    def on_gap(self, gap: Gap) -> None:
        """See `edge.core.hub.Paced`."""
        self._adapt()
        subscription = self.subscription
        frame = subscription.tell_gap(gap)
        if frame:
            self._pipe.write(frame)
        if subscription.delivery.mode is Mode.QUEUE and not isinstance(subscription, KeyedPaced):
            newest = subscription.channel.stream.newest
            if newest is not None:
                self._write(full_frame(newest, subscription.channel.label, subscription.variant))
            self._join()
        else:
            self.poke()

    def on_too_large(self, why: str) -> None:
        """See `edge.core.hub.Paced`."""
        self.leave()
        self._holder.on_too_large(self, why)

    def leave(self) -> None:
        """End it."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.subscription.channel.remove_paced(self)

    def _adapt(self) -> None:
        """What kind of channel it is shows with its first publication, and may change with its epoch."""
        old = self.subscription
        if (old.channel.stream.keyed is not None) is isinstance(old, KeyedPaced):
            return
        if isinstance(old, KeyedPaced):
            self.subscription = PacedSubscription(old.channel, old.variant, old.delivery, 0)
        else:
            self.subscription = KeyedPaced(old.channel, old.variant, old.delivery, 0, is_whole=True)

    def _join(self) -> None:
        self.leave()
        self._holder.on_whole(self)

    def _write(self, frames: bytes) -> None:
        # It was the client's turn: one publication larger than the outbox does not make it a slow consumer.
        self._pipe.allow_burst(len(frames))
        self._pipe.write(frames)

    def _must_wait(self) -> bool:
        """Let others go first where this turn has had its time. Who needs but little is not one of thousands who begin together."""
        subscription = self.subscription
        if subscription.channel.stream.offset - subscription.cursor <= NEAR or not self._turns.is_over():
            return False
        self._is_waiting = True
        self._turns.later(self._go_on, MOST_COST)
        return True

    def _go_on(self) -> None:
        self._is_waiting = False
        if not self._is_over:
            self._adapt()
            self._send()

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
                return True
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
        make = item_of if stream.keyed is None else keyed_item_of
        return [make(epoch_to_text(envelope.epoch), envelope, envelope.body) for envelope in history.envelopes], is_all
