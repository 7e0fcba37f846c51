"""The bounded queue between the connection's reader and one subscription's consumer."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from distributary._chain import ACK, CONFLATE, Whole
from distributary._core import Joined
from distributary.errors import ClientClosedError, ClientError
from distributary.publication import Gap, Publication
from shared.publication import Position


class Feed:
    """Publications of one channel that wait for the application. One reader puts, one consumer gets."""

    def __init__(self, channel: str, *, max_items: int, max_bytes: int, on_gap: Callable[[Gap], None] | None) -> None:
        self.channel = channel
        self.resyncs = 0
        """How often in a row, without a publication in between, the channel had to be subscribed to again."""
        self.refusals = 0
        """The same of refusals that allow another try."""
        self.joined: Joined | None = None
        self.start: Position | None = None
        """Where the first subscription began."""
        self.is_over = False
        self._error: ClientError | None = None
        self._items: OrderedDict[object, Publication | Whole] = OrderedDict()
        """By what a newer one takes the place of."""
        self._numbers = itertools.count()
        self._part = 0
        """Of a keyed channel: nothing takes the place of what came before a mark."""
        self._bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._on_gap = on_gap
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._settled = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Feed {self.channel} holds {len(self._items)} ({self._bytes} bytes){' over' if self.is_over else ''}>"

    @property
    def is_full(self) -> bool:
        """Whether the reader has to wait before it puts."""
        return not self._writable.is_set()

    async def wait_for_space(self) -> None:
        """Wait until the application has taken something, or wants no more."""
        await self._writable.wait()

    def put(self, publication: Publication) -> None:
        """Add a publication, unless the feed is over."""
        if self.is_over:
            return
        self.resyncs = 0
        place: object = next(self._numbers)
        if self.joined is not None and self.joined.mode == CONFLATE:
            # Only the newest (of the key) counts. What it replaces was whole here before, so no delta is missing.
            place = (self._part, publication.key)
            publication = self._begin_anew(publication) if publication.starts_state else self._replace(place, publication)
        self._items[place] = publication
        self._bytes += len(publication.body)
        self._readable.set()
        self._judge()

    def put_whole(self, whole: Whole) -> None:
        """The state of a keyed channel is complete with what was put so far."""
        if not self.is_over:
            self._part += 1
            self._items[next(self._numbers)] = whole
            self._readable.set()

    def _replace(self, place: object, publication: Publication) -> Publication:
        """Forget what is in that place. Whoever is next tells the gap, and that the state comes anew."""
        replaced = self._items.pop(place, None)
        if not isinstance(replaced, Publication):
            return publication
        self._bytes -= len(replaced.body)
        gap, starts_state = replaced.gap, replaced.starts_state
        if gap is None and not starts_state:
            return publication
        following = next(iter(self._items.items()), None)
        if following is not None and isinstance(following[1], Publication) and publication.key is not None:
            next_ = following[1]
            starts_state = next_.starts_state or starts_state
            self._items[following[0]] = msgspec.structs.replace(next_, gap=next_.gap or gap, starts_state=starts_state)
            return publication
        return msgspec.structs.replace(publication, gap=publication.gap or gap, starts_state=publication.starts_state or starts_state)

    def _begin_anew(self, publication: Publication) -> Publication:
        """Forget all that waits: it is of a state that counts no more, and is not to be taken for a part of the one that begins."""
        gap = next((item.gap for item in self._items.values() if isinstance(item, Publication) and item.gap is not None), None)
        self._items.clear()
        self._bytes = 0
        return msgspec.structs.replace(publication, gap=publication.gap or gap)

    async def get(self) -> Publication | Whole | None:
        """The next publication, or mark; None at the end. Raises what ended the feed, after what came before it. Safe to cancel."""
        await self._readable.wait()
        if not self._items:
            if self._error is not None:
                raise self._error
            return None
        _, item = self._items.popitem(last=False)
        if isinstance(item, Publication):
            self._bytes -= len(item.body)
        if not self._items and not self.is_over:
            self._readable.clear()
        self._judge()
        return item

    async def wait_joined(self) -> Joined:
        """Wait for the edge's first answer to the subscription, and return the newest one."""
        await self._settled.wait()
        if self.joined is None:
            msg = f"{self.channel}: closed before the edge answered"
            raise self._error or ClientClosedError(msg)
        return self.joined

    def on_joined(self, joined: Joined, position: Position | None) -> None:
        """The edge took the subscription (again), which stands at `position`."""
        if self.joined is None:
            self.start = position
        self.joined = joined
        if joined.mode == ACK and joined.recovered and joined.newest is not None:
            self._drop(joined.newest.epoch)
        self.refusals = 0
        self._settled.set()
        if joined.gap is not None:
            self.on_gap(joined.gap)
        if joined.newest is None:
            self.put_whole(Whole(self.channel, None, starts_state=not joined.recovered))

    def on_gap(self, gap: Gap) -> None:
        """Tell the application now; the next publication tells it again, in order."""
        if self._on_gap is not None:
            self._on_gap(gap)

    def end(self, error: ClientError | None = None, *, discard: bool = False) -> None:
        """No more will come. What waits is still delivered, unless `discard`."""
        if self.is_over:
            return
        self.is_over = True
        self._error = error
        if discard:
            self._items.clear()
            self._bytes = 0
        self._readable.set()
        self._writable.set()
        self._settled.set()

    def _drop(self, epoch: str) -> None:
        """Forget what waits of this epoch: none of it is acknowledged, so all of it comes again."""
        for place, item in list(self._items.items()):
            if item.position is not None and item.position.epoch == epoch:
                del self._items[place]
                self._bytes -= len(item.body) if isinstance(item, Publication) else 0
        if not self._items and not self.is_over:
            self._readable.clear()
        self._judge()

    def _judge(self) -> None:
        if self.is_over or (len(self._items) < self._max_items and self._bytes < self._max_bytes):
            self._writable.set()
        else:
            self._writable.clear()
