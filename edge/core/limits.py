"""Bounds on what one client, one address and one process may use."""

from __future__ import annotations

from collections import Counter

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Every bound of an edge. 0 means no bound only where it says so."""

    max_connections: int = 15_000
    """Of the process, in all transports."""
    max_connections_per_address: int = 0
    """0: no bound (behind a proxy every client has the proxy's address)."""
    max_connects_per_s: float = 2_000.0
    """Clients let in a second; see `edge.core.admission`. 0: no bound."""
    max_subscriptions: int = 1_000
    """Of one session."""
    max_channels: int = 200_000
    """Of the process."""
    max_frame_bytes: int = 65_536
    """From a client; larger closes the connection with 1009."""
    max_commands_per_s: float = 200.0
    """Of one session, on average; `command_burst` at once."""
    command_burst: int = 2_000
    max_lookups_per_s: float = 100.0
    """Requests for `/v1/channels/...` that must ask the bus, of the process, on average; those of 2 s at once."""
    max_errors: int = 10
    """Malformed frames of one session before it is closed."""
    max_outbox_bytes: int = 1_048_576
    """Unsent bytes of one session before it is a slow consumer. What it got when a subscription began comes on top, and with more than this
    unsent, none begins."""
    short_outbox_bytes: int = 16_384
    """Unsent bytes of a session with a conflating subscription before it is sent nothing newer, and the same again in the kernel."""
    max_recovery_items: int = 1_000
    max_recovery_bytes: int = 4_194_304
    """What one subscription may get at once when it recovers."""
    ring_items: int = 200
    ring_bytes: int = 1_048_576
    """Of one channel."""
    max_ring_bytes: int = 536_870_912
    """Of all channels together, with what each publication takes besides its payload; beyond it, channels keep only their newest one."""
    max_keys: int = 200_000
    """Of one keyed channel, whose newest publications an edge holds while it is in use."""
    max_state_bytes: int = 268_435_456
    """Of them, in one channel."""
    max_all_state_bytes: int = 1_073_741_824
    """Of them, in all channels together. Frames of them, kept for a second for others who begin, may take as much again."""
    connect_timeout_s: float = 10.0
    ping_interval_s: float = 25.0
    """A ping that is not answered before the next one is due closes the connection."""
    subscribe_timeout_s: float = 5.0
    linger_s: float = 10.0
    """How long a channel without subscribers stays subscribed on the bus."""


class CommandRate:
    """A token bucket: `rate` a second on average, `burst` at once."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def allows(self, now: float) -> bool:
        """Whether one more fits now; if so it is counted."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class ConnectionCounter:
    """How many connections there are, in all and by address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_address: Counter[str] = Counter()
        self.total = 0

    @property
    def is_full(self) -> bool:
        """Whether nobody can enter now, whatever the address."""
        return self.total >= self._limits.max_connections

    @property
    def is_by_address(self) -> bool:
        """Whether addresses matter at all."""
        return self._limits.max_connections_per_address > 0

    def enter(self, address: str) -> bool:
        """Count one more; False, and not counted, where a bound forbids it."""
        limits = self._limits
        if self.is_full:
            return False
        if limits.max_connections_per_address and self._by_address[address] >= limits.max_connections_per_address:
            return False
        self.total += 1
        if limits.max_connections_per_address:
            self._by_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count one less."""
        self.total -= 1
        if self._limits.max_connections_per_address:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
