"""Delivery modes: what a namespace allows, and what a subscription and the edge agree on (docs/protocol.md, section 9)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

MAX_WINDOW = 10_000


class Mode(StrEnum):
    """What happens to publications that a subscriber is not ready for."""

    QUEUE = "queue"
    """They wait in its outbox; one that overflows is closed, and comes back with its position."""
    CONFLATE = "conflate"
    """Only the newest counts: whatever it skips on the way to it is no gap."""
    ACK = "ack"
    """They stay in the history; at most `window` are under way without an acknowledgement."""


class Wish(msgspec.Struct, frozen=True):
    """What a client asked for. None and 0: whatever the namespace says."""

    mode: Mode | None = None
    max_rate: float = 0
    """Publications a second, in mode conflate."""
    window: int = 0


class Delivery(msgspec.Struct, frozen=True):
    """How one subscription is delivered."""

    mode: Mode = Mode.QUEUE
    max_rate: float = 0
    """Publications a second; 0: as they come. Only in mode conflate."""
    window: int = 0
    """Publications that may be under way without an acknowledgement. 0: none is asked for. Always above 0 in mode ack."""


class Policy(msgspec.Struct, frozen=True):
    """What the channels of one namespace allow."""

    modes: tuple[Mode, ...] = (Mode.QUEUE, Mode.CONFLATE, Mode.ACK)
    """The first one is what a client gets that does not ask."""
    max_rate: float = 0
    """The most publications a second that a conflating subscription gets; 0: no bound."""
    window: int = 64
    """The largest window, and that of a client in mode ack that names none."""

    def agree(self, wish: Wish) -> Delivery | None:
        """What the subscription gets: never more than the namespace allows. None where it does not allow the mode."""
        mode = wish.mode or self.modes[0]
        if mode not in self.modes:
            return None
        if mode is Mode.QUEUE:
            return Delivery()
        if mode is Mode.ACK:
            return Delivery(mode, 0, min(wish.window or self.window, self.window))
        rates = [rate for rate in (wish.max_rate, self.max_rate) if rate]
        return Delivery(mode, min(rates, default=0), min(wish.window, self.window))


class Policies(msgspec.Struct, frozen=True):
    """The policies of an edge, by namespace; `default` is for all others."""

    default: Policy = Policy()
    namespaces: dict[str, Policy] = {}

    def of(self, namespace: str) -> Policy:
        """The policy of a channel's namespace."""
        return self.namespaces.get(namespace, self.default)
