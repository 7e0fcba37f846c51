"""What the edge needs from outside: a bus to read from, and a pipe to each client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from shared.envelope import Envelope


class ChannelHistory(msgspec.Struct, frozen=True):
    """What the bus holds of one channel: its newest publications, full, oldest first, without a hole. Empty: no such channel."""

    envelopes: list[Envelope]
    asked: int
    """How many were asked for; fewer came where the bus holds fewer."""


class KeyPage(msgspec.Struct, frozen=True):
    """Some keys of a keyed channel: the newest publication of each, full. A key may come on more than one page."""

    envelopes: list[Envelope]
    cursor: int
    """Where the next page begins; 0: this was the last one."""


class BusEvents(Protocol):
    """What the bus tells the node. Called on the event loop, in order; must not block."""

    def on_publications(self, arrived: Sequence[tuple[str, Envelope]]) -> None:
        """One read of the bus brought these: (channel, envelope), in the bus's order."""

    def on_verify(self, channels: Sequence[str], why: str) -> None:
        """What is known of these channels may be out of date: read them."""


class Bus(Protocol):
    """The bus as an edge sees it: read only. Every call is bounded in time."""

    async def subscribe(self, channel: str) -> None:
        """Return once publications of `channel` arrive at `BusEvents.on_publications`.

        Stays subscribed over reconnects until `unsubscribe`; raises BusUnavailableError if that takes too long.
        """

    def unsubscribe(self, channel: str) -> None:
        """Stop getting publications of `channel`. Some may still arrive."""

    def hold(self, is_held: bool) -> None:  # noqa: FBT001  (it is all that there is to say)
        """Take no more publications in until it is called with False: there is enough to do. Some may still arrive."""

    async def read(self, channel: str, count: int, skip: int = 0) -> ChannelHistory:
        """Read the newest `count` publications before the newest `skip`; fewer come where the bus holds fewer.

        Raises BusUnavailableError if the bus is away or cannot be trusted yet.
        """

    async def read_oldest(self, channel: str, count: int) -> ChannelHistory:
        """Read the oldest `count` publications that the bus holds. Raises as `read` does."""

    async def read_keys(self, channel: str, cursor: int, count: int) -> KeyPage:
        """Read about `count` keys of a keyed channel; the first page has cursor 0. Raises as `read` does.

        A key that is there all the time comes on some page at least, as it was at some moment since the first page was asked for.
        """


class ClientPipe(Protocol):
    """A transport as a session sees it. Nothing here blocks."""

    def write(self, frames: bytes) -> None:
        """Send finished frames; dropped where the client is gone."""

    @property
    def is_writable(self) -> bool:
        """Whether what is written now leaves soon: false while more than a little is unsent. Only after `keep_short`."""

    @property
    def is_full(self) -> bool:
        """Whether the client must read before it is begun to be sent anything new. The session is told when there is room again."""

    def keep_short(self) -> None:
        """Keep little unsent, in the kernel too, and tell the session whenever there is room again: for those who conflate."""

    def allow_burst(self, size: int) -> None:
        """`size` bytes, which the client asked for, are about to be written: they do not make it a slow consumer."""

    def close(self, code: int, reason: str) -> None:
        """End the connection, telling the client why (docs/protocol.md, section 7)."""
