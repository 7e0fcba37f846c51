"""The bounded queue between the connection's reader and one subscription's consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from distributary._chain import ACK, CONFLATE
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
        self._items: deque[Publication] = deque()
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
        if self._items and self.joined is not None and self.joined.mode == CONFLATE:
            # Only the newest counts. What it replaces was whole here before, so no delta is missing.
            replaced = self._items.popleft()
            self._bytes -= len(replaced.body)
            if publication.gap is None and replaced.gap is not None:
                publication = msgspec.structs.replace(publication, gap=replaced.gap)
        self._items.append(publication)
        self._bytes += len(publication.body)
        self._readable.set()
        self._judge()

    async def get(self) -> Publication | None:
        """The next publication; None at the end. Raises what ended the feed, after what came before it. Safe to cancel."""
        await self._readable.wait()
        if not self._items:
            if self._error is not None:
                raise self._error
            return None
        publication = self._items.popleft()
        self._bytes -= len(publication.body)
        if not self._items and not self.is_over:
            self._readable.clear()
        self._judge()
        return publication

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
        self._items = deque(publication for publication in self._items if publication.position.epoch != epoch)
        self._bytes = sum(len(publication.body) for publication in self._items)
        if not self._items and not self.is_over:
            self._readable.clear()
        self._judge()

    def _judge(self) -> None:
        if self.is_over or (len(self._items) < self._max_items and self._bytes < self._max_bytes):
            self._writable.set()
        else:
            self._writable.clear()
