"""One subscription, as the application holds it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from distributary._chain import ACK, Whole
from distributary._core import Joined
from distributary._feed import Feed
from distributary.errors import CallTimeoutError, ClientClosedError
from distributary.publication import Gap, Publication
from shared.publication import Position


class Owner(Protocol):
    """What a subscription needs of its client."""

    def start(self, wish: Wish) -> Feed:
        """Subscribe; raises ClientError where that cannot be."""

    def acknowledge(self, feed: Feed, position: Position) -> None:
        """Everything up to this position was handled."""

    def begin_anew(self, feed: Feed, at: Position) -> None:
        """The application took the first publication of a keyed channel's new state."""

    def release(self, feed: Feed) -> None:
        """Unsubscribe; harmless when done twice, and from any thread."""

    @property
    def call_timeout_s(self) -> float:
        """How long to wait for an answer."""


class Wish:
    """What the application asked for."""

    def __init__(
        self,
        channel: str,
        *,
        position: Position | None,
        rewind: dict[str, float] | None,
        delta: tuple[str, ...],
        on_gap: Callable[[Gap], None] | None,
        delivery: dict[str, Any] | None = None,
        keep_state: bool = False,
    ) -> None:
        self.channel = channel
        self.keep_state = keep_state
        self.delivery = delivery or {}
        """`mode`, `max_rate` and `window`, as `subscribe` says them."""
        self.position = position
        self.rewind = rewind
        self.delta = delta
        self.on_gap = on_gap


class Subscription:
    """An asynchronous iterator of a channel's publications.

    It subscribes when it is first iterated or entered, and unsubscribes when it is closed, left (`async with`) or, with a plain
    `async for`, when nothing refers to it any more, which is right after the loop was left.
    """

    def __init__(self, owner: Owner, wish: Wish) -> None:
        self._owner = owner
        self._wish = wish
        self._feed: Feed | None = None
        self._position = wish.position
        self._acked: Position | None = None
        self._is_closed = False
        self._is_waiting = False
        self._state: dict[str, Publication] = {}
        self._is_whole = False
        self._taken: Position | None = None
        """Of the last publication that the application took, until it is acknowledged."""
        self._newest: Position | None = None
        """Of the last publication that the application took of a keyed channel's state."""

    def __repr__(self) -> str:
        return f"<Subscription {self._wish.channel} at {self._position}{' closed' if self._is_closed else ''}>"

    @property
    def channel(self) -> str:
        """The channel's name."""
        return self._wish.channel

    @property
    def position(self) -> Position | None:
        """Of the last publication that the application got (in mode ack: acknowledged): what to keep, and to come back with.

        Before the first one it is the position asked for or, of a stream, where it stood when the subscription began.
        """
        if self._position is None and self._feed is not None:
            return self._feed.start
        return self._position

    @property
    def state(self) -> Mapping[str, Publication]:
        """Of a keyed channel, with `keep_state`: the newest publication of each key, of those that the application took. Not a copy.

        It follows the iteration: deleted keys are not in it, and after a gap that left something out it fills anew.
        """
        return self._state

    @property
    def is_whole(self) -> bool:
        """Whether `state` was complete since the subscription began or the last gap. False while the newest values are still coming."""
        return self._is_whole

    async def read_state(self) -> Mapping[str, Publication]:
        """Take publications until the state of a keyed channel is complete, and return it. Needs `keep_state`.

        Go on with the iteration for what changes. Raises ClientClosedError where the subscription ends before, and what ended it.
        """
        if not self._wish.keep_state:
            msg = f"{self.channel}: subscribe with keep_state=True to have its state"
            raise ValueError(msg)
        while not self._is_whole and await self._take(until_whole=True) is not None:
            pass
        if not self.is_whole:
            raise self._closed()
        return self._state

    @property
    def info(self) -> Joined | None:
        """The edge's newest answer: kind, mode, delta format, whether it recovered."""
        return self._feed.joined if self._feed is not None else None

    async def joined(self, timeout_s: float | None = None) -> Joined:
        """Subscribe if need be, and wait for the edge's answer.

        Raises CallTimeoutError after `timeout_s` (None: the client's `call_timeout_s`), and RefusedError where the edge said no.
        """
        if self._is_closed:
            raise self._closed()
        feed = self._start()
        try:
            async with asyncio.timeout(timeout_s if timeout_s is not None else self._owner.call_timeout_s):
                return await feed.wait_joined()
        except TimeoutError:
            msg = f"{self.channel}: no answer from the edge yet"
            raise CallTimeoutError(msg) from None

    async def ack(self, handled: Publication | Position) -> None:
        """Say that everything up to this publication was handled: in mode ack, where it makes room for more and is not delivered again.

        There is no answer. Several acknowledgements in a row travel as one. Acknowledge at the latest when half of the window is handled.
        """
        position = handled.position if isinstance(handled, Publication) else handled
        if self._feed is None or self._is_closed:
            raise self._closed()
        newest = self._newest
        if newest is not None and (newest.epoch != position.epoch or newest.offset < position.offset):
            return  # It is of a state that counts no more.
        if self._acked is None or self._acked.epoch != position.epoch or self._acked.offset < position.offset:
            self._acked = position
            if self._is_ack:
                self._position = position
        self._owner.acknowledge(self._feed, position)

    async def aclose(self) -> None:
        """Unsubscribe and end the iteration. What waited is dropped."""
        self._is_closed = True
        if self._feed is not None:
            self._owner.release(self._feed)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Publication:
        publication = None if self._is_closed else await self._take()
        if publication is None:
            raise StopAsyncIteration
        return publication

    async def _take(self, *, until_whole: bool = False) -> Publication | None:
        """The next publication; None at the end and, if asked for, where the state of a keyed channel is complete."""
        feed = self._start()
        if self._is_waiting:
            msg = f"{self.channel}: another task is already waiting for the next publication"
            raise RuntimeError(msg)
        self._acknowledge_taken(feed)
        self._is_waiting = True
        try:
            item = await feed.get()
            while isinstance(item, Whole) or (item is not None and self._is_acked(item)):
                if isinstance(item, Whole):
                    self._on_whole(item)
                    if until_whole:
                        return None
                item = await feed.get()
        finally:
            self._is_waiting = False
        if item is None:
            return None
        self._taken = item.position
        if not self._is_ack:
            self._position = item.position
        if item.key is not None:
            if item.starts_state:
                self._begin_anew(feed, item.position)
            self._newest = item.position
            self._keep(item, item.key)
        return item

    def _keep(self, publication: Publication, key: str) -> None:
        if publication.starts_state:
            self._state.clear()
            self._is_whole = False
        if not self._wish.keep_state:
            return
        if publication.is_deleted:
            self._state.pop(key, None)
        else:
            self._state[key] = publication

    def _on_whole(self, whole: Whole) -> None:
        self._is_whole = True
        if whole.starts_state:
            self._state.clear()
        if whole.position is not None and not self._is_ack:
            self._position = whole.position

    @property
    def _is_ack(self) -> bool:
        return self.info is not None and self.info.mode == ACK

    def _begin_anew(self, feed: Feed, at: Position) -> None:
        """What was acknowledged says nothing of a state that comes anew: the offsets of its keys may be far below."""
        if self._is_ack and self._acked is not None:
            self._position = Position(at.epoch, at.offset - 1)
        self._acked = None
        self._owner.begin_anew(feed, at)

    def _is_acked(self, item: Publication) -> bool:
        """Whether it comes again although it was acknowledged: that crossed a reconnect."""
        acked, at = self._acked, item.position
        if not self._is_ack or acked is None or item.starts_state:
            return False
        return acked.epoch == at.epoch and at.offset <= acked.offset

    def _acknowledge_taken(self, feed: Feed) -> None:
        """Who takes the next publication has handled the one before, unless the application wants to say itself when it has."""
        taken, self._taken = self._taken, None
        if taken is None or self._wish.delivery.get("mode") == ACK or self.info is None or self.info.window is None:
            return
        if self._is_ack:
            self._position = taken
        self._owner.acknowledge(feed, taken)

    def _start(self) -> Feed:
        if self._feed is None:
            if self._is_closed:
                raise self._closed()
            self._feed = self._owner.start(self._wish)
            weakref.finalize(self, self._owner.release, self._feed).atexit = False
        return self._feed

    def _closed(self) -> ClientClosedError:
        msg = f"{self.channel}: this subscription is closed; subscribe again"
        return ClientClosedError(msg)
