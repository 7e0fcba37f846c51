"""The client's settings: every bound and time-out, with what it is for. Units are in the names."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from distributary.backoff import Backoff

_MIB = 1_048_576


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and time-outs of a client; the defaults suit a service."""

    name: str = "distributary-python"
    """How the edge's log calls this client."""
    reconnect: bool = True
    """Whether to come back after a connection was lost or could not be made. Off: the error reaches the application at once."""
    backoff: Backoff = Backoff()
    open_timeout_s: float | None = 30.0
    """How long `async with Client(...)` waits for the first connection, all tries together. None: for ever."""
    connect_timeout_s: float = 10.0
    """For one try: TCP, TLS, the handshake, and the edge's `connected`."""
    call_timeout_s: float = 10.0
    """For the answer to any command, pings included; the connection is given up after so long with neither the answer nor anything else."""
    close_timeout_s: float = 2.0
    ping_interval_s: float | None = None
    """Silence after which the client asks for a sign of life. None: as the edge said in `connected`."""
    max_queue: int = 1000
    """Publications that wait for the application, a subscription. When they are this many, the client stops reading."""
    max_queue_bytes: int = 8 * _MIB
    max_frame_bytes: int = 16 * _MIB
    max_payload_bytes: int = 16 * _MIB
    """Of a payload that a delta makes."""
    max_resyncs: int = 5
    """How often in a row a channel is subscribed to again because its deltas or offsets do not fit, before it is given up."""
    max_malformed: int = 3
    """How many connections in a row may end by a malformed frame before the client gives up."""
    compression: bool = False
    """Whether to offer permessage-deflate. Deltas are small; it costs about 64 KiB of memory."""
    proxy: str | bool = True
    """A proxy's URL; True: as the environment says; False: none."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, all at once."""
        problems = [
            f"{name} must be above 0"
            for name in ("connect_timeout_s", "call_timeout_s", "close_timeout_s", "max_queue", "max_queue_bytes", "max_frame_bytes")
            if getattr(self, name) <= 0
        ]
        if problems:
            raise ValueError("; ".join(problems))


class Clock(Protocol):
    """Time, as the client needs it: a test passes its own."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""

    async def sleep(self, delay_s: float) -> None:
        """Wait."""


class LoopClock:
    """The running event loop's time."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


class Status(msgspec.Struct, frozen=True):
    """What the connection is doing, for a log or a status line."""

    state: str
    """`connecting`, `connected`, `draining`, `waiting` (to try again), `closed`."""
    detail: str = ""
    retry_in_s: float | None = None
