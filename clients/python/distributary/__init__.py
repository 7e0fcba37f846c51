"""Distributary's asyncio client: subscribe to channels of an edge over one WebSocket.

    async with Client("ws://127.0.0.1:8000") as client:
        async for publication in client.subscribe("bus:1430"):
            print(publication.position, publication.data)

It reconnects, resumes by position, applies deltas, and says what was missed. docs/clients.md tells how.
"""

from __future__ import annotations

from distributary.backoff import Backoff
from distributary.client import Client
from distributary.errors import (
    AlreadySubscribedError,
    CallTimeoutError,
    ClientClosedError,
    ClientError,
    ClosedByEdgeError,
    PayloadError,
    ProtocolError,
    RefusedError,
    UnavailableError,
)
from distributary.options import Options, Status
from distributary.publication import Gap, Missed, Publication
from distributary.subscription import Subscription
from shared.publication import Position

__all__ = [
    "AlreadySubscribedError",
    "Backoff",
    "CallTimeoutError",
    "Client",
    "ClientClosedError",
    "ClientError",
    "ClosedByEdgeError",
    "Gap",
    "Missed",
    "Options",
    "PayloadError",
    "Position",
    "ProtocolError",
    "Publication",
    "RefusedError",
    "Status",
    "Subscription",
    "UnavailableError",
]
