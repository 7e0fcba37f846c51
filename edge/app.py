"""One edge process, put together: bus, node, transports, HTTP; its start, its signals, its drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from edge.adapters.redis_bus import RedisBus
from edge.adapters.redis_connection import parse_address
from edge.core.limits import ConnectionCounter
from edge.http import internal_app, public_app
from edge.node import Node
from edge.settings import Settings
from edge.transports.websocket import PATH, WebSocketEndpoint
from shared.bus.servers import is_cluster, parse_servers
from shared.delta import vcdiff
from shared.errors import DistributaryError
from shared.telemetry import Log

log = Log("distributary.edge")

DRAIN_SLICES = 20

# Their notes on each connection and each start say nothing that the lines of this process do not.
for _library in ("uvicorn.error", "websockets.server"):
    logging.getLogger(_library).setLevel(logging.WARNING)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises DistributaryError where the edge cannot be what it was told to be."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: two of them share this process."""

    ticking: asyncio.Task[None]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def port(self) -> int:
        """The port that it got."""
        return int(self.servers[0].sockets[0].getsockname()[1])


async def _serve(settings: Settings) -> None:
    urls = parse_servers(settings.bus)
    addresses = [parse_address(url) for url in urls]
    bus = RedisBus(addresses, cluster=is_cluster(urls), prefix=settings.bus_prefix, clock=time.monotonic, random=random.random)
    node = Node(bus, settings.limits, clock=time.monotonic, now_ms=lambda: time.time_ns() // 1_000_000, random=random.random)
    endpoint = WebSocketEndpoint(node, ConnectionCounter(settings.limits))
    stopping = _stop_on_signals()
    public = _server(public_app(node, bus, with_console=settings.console), settings.host, settings.port, endpoint)
    internal = _server(internal_app(node, bus, endpoint), settings.internal_host, settings.internal_port, None)
    work = [asyncio.create_task(bus.run(node), name="bus"), asyncio.create_task(_tick(node, endpoint), name="tick")]
    servers = [public] if settings.internal_port < 0 else [public, internal]
    try:
        for server in servers:
            await _start(server)
        log.info(
            "edge started",
            version=version("distributary"),
            url=f"ws://{settings.host}:{public.port}{PATH}",
            port=public.port,
            internal=f"{settings.internal_host}:{internal.port}" if internal in servers else "none",
            bus=", ".join(address.name for address in addresses),
            vcdiff=vcdiff.engine(),
        )
        stopped = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait({stopped, *work}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in done - {stopped}:
            _raise_cause(task)
        await _drain(public, endpoint, settings.drain_s)
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await node.close()
        for server in servers:
            await _stop(server)
    log.info("edge stopped")


def _server(app: FastAPI, host: str, port: int, endpoint: WebSocketEndpoint | None) -> _Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=max(port, 0),
        http="httptools",
        ws="none" if endpoint is None else endpoint.protocol,  # type: ignore[arg-type]  # any callable that makes a protocol serves
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        backlog=4096,
    )
    return _Server(config)


async def _start(server: _Server) -> None:
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    try:
        await server.startup()
    except SystemExit:
        msg = (
            f"cannot listen on {server.config.host}:{server.config.port}: is something else there? Choose another --port or --internal-port"
        )
        raise DistributaryError(msg) from None
    server.ticking = asyncio.create_task(server.main_loop())


async def _stop(server: _Server) -> None:
    server.should_exit = True
    if server.started:
        await server.ticking
        await server.shutdown()


async def _tick(node: Node, endpoint: WebSocketEndpoint) -> None:
    """Once a second: pings, time-outs, channels that nobody uses any more."""
    while True:
        await asyncio.sleep(1)
        endpoint.tick()
        node.forget_idle()


async def _drain(public: _Server, endpoint: WebSocketEndpoint, drain_s: float) -> None:
    """Accept nobody, and spread the closes, so that the other edges are not stormed."""
    endpoint.is_draining = True
    for listener in public.servers:
        listener.close()
    connections = list(endpoint.connections)
    log.info("draining", connections=len(connections), over_s=drain_s)
    if not connections:
        return
    size = -(-len(connections) // DRAIN_SLICES)
    for at in range(0, len(connections), size):
        for connection in connections[at : at + size]:
            connection.drain(random.randint(0, 1_000))  # noqa: S311  (jitter, no secret)
        await asyncio.sleep(drain_s / DRAIN_SLICES if len(connections) > 1 else 0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while endpoint.connections:  # noqa: ASYNC110  (an event for the last of them would cost each connection a check)
                await asyncio.sleep(0.05)


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            raise SystemExit(130)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stopping


def _raise_cause(task: asyncio.Task[Any]) -> None:
    """Raise what ended a task that should never end, without the wrapping of task groups."""
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
