"""uvicorn's server as this project uses it: several in one process, no signal handlers of its own, sockets that workers share."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from edge.transports.entry import Endpoint
from edge.transports.websocket import TCP_NOTSENT_LOWAT
from shared.errors import DistributaryError

BACKLOG = 4096
ACCEPTS_A_TURN = 16
"""libuv (1.52) accepts one connection of a socket in a turn of the event loop: 100 a second where a turn takes 10 ms. So clients come by
several sockets that are one (dup(2)); a turn in which fewer come pays for the others with an accept(2) in vain, under 1 us each."""
KERNEL_OUTBOX_BYTES = 131_072
"""What the kernel takes of a connection's frames beyond those on their way (TCP_NOTSENT_LOWAT): the rest is in the outbox, and counted."""

# Their notes on each connection and each start say nothing that the lines of this process do not.
for _library in ("uvicorn.error", "websockets.server"):
    logging.getLogger(_library).setLevel(logging.WARNING)


class Server(uvicorn.Server):
    """One listening address. `start`, then `stop`."""

    _ticking: asyncio.Task[None]

    def __init__(self, app: FastAPI, host: str, port: int, endpoint: Endpoint | None = None) -> None:
        """With an `endpoint`, WebSocket clients are served too."""
        config = uvicorn.Config(
            app,
            host=host,
            port=max(port, 0),
            # Any callable that makes a protocol serves.
            http="httptools" if endpoint is None else endpoint.http_protocol,  # type: ignore[arg-type]
            ws="none" if endpoint is None else endpoint.websocket_protocol,  # type: ignore[arg-type]
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._is_public = endpoint is not None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    @property
    def port(self) -> int:
        """The port that it got."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def start(self, *, is_shared: bool = False) -> None:
        """Listen; raise DistributaryError where that does not work. `is_shared`: others listen on the same port, and the kernel deals."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        sockets = None
        if self._is_public:
            bound = bind(self.config.host, self.config.port, is_shared=is_shared)
            for listener in bound:
                # Accepted connections inherit it (tcp(7)). Without it the kernel takes megabytes for a client that stopped reading.
                listener.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, KERNEL_OUTBOX_BYTES)
            sockets = bound + [listener.dup() for listener in bound for _ in range(ACCEPTS_A_TURN - 1)]
        try:
            await self.startup(sockets)
        except OSError as error:
            raise _cannot_listen(self.config.host, self.config.port, error) from None
        except SystemExit:  # uvicorn's way to say that somebody else is there.
            raise _cannot_listen(self.config.host, self.config.port, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))) from None
        self._ticking = asyncio.create_task(self.main_loop())

    async def stop(self) -> None:
        """End the requests under way, and no longer listen."""
        self.should_exit = True
        if self.started:
            await self._ticking
            await self.shutdown()


def bind(host: str, port: int, *, is_shared: bool) -> list[socket.socket]:
    """Bind to every address of a host name, with one port for all; raise DistributaryError where that does not work."""
    bound: list[socket.socket] = []
    try:
        for family, type_, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            listener = socket.socket(family, type_, protocol)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # The first one may have had a port chosen for it.
            listener.bind((address[0], port or bound[0].getsockname()[1], *address[2:]))
    except OSError as error:
        for listener in bound:
            listener.close()
        raise _cannot_listen(host, port, error) from None
    return bound


def reserve(host: str, port: int) -> list[socket.socket]:
    """Sockets that keep a port for the workers and never listen; raise DistributaryError where somebody else is there.

    One who shares ports as we do would not be noticed otherwise: the kernel would deal clients to both of us.
    """
    if port:
        for probe in bind(host, port, is_shared=False):
            probe.close()
    return bind(host, port, is_shared=True)


def _cannot_listen(host: str, port: int, error: OSError) -> DistributaryError:
    is_the_ports_fault = error.errno in {errno.EADDRINUSE, errno.EACCES}
    hint = (
        "choose another --port or --internal-port" if is_the_ports_fault else "is it an address of this machine (--host, --internal-host)?"
    )
    msg = f"cannot listen on {host}:{port}: {error.strerror or error}; {hint}"
    return DistributaryError(msg)
