"""One edge process, put together: bus, node, transports, HTTP; its start, its signals, its drain."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import uvloop

from edge import garbage
from edge.adapters.redis_bus import RedisBus
from edge.adapters.redis_connection import parse_address
from edge.http import internal_app, public_app
from edge.node import Node
from edge.open_files import allow_connections
from edge.server import Server
from edge.settings import Settings
from edge.transports.entry import PATH, Endpoint
from shared.bus.servers import is_cluster, parse_servers
from shared.delta import vcdiff
from shared.telemetry import Log

log = Log("distributary.edge")

DRAIN_SLICES = 20

Started = Callable[[int | None], None]
"""Told the internal port, or None, once clients are served."""


def run(settings: Settings, *, worker: int | None = None, on_started: Started | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises DistributaryError where the edge cannot be what it was told to be.

    `worker`: our number where we are one of several that share the port.
    """
    allow_connections(settings.limits.max_connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, worker, on_started))


async def _serve(settings: Settings, worker: int | None, on_started: Started | None) -> None:
    urls = parse_servers(settings.bus)
    addresses = [parse_address(url) for url in urls]
    bus = RedisBus(addresses, cluster=is_cluster(urls), prefix=settings.bus_prefix, clock=time.monotonic, random=random.random)
    node = Node(bus, settings.limits, clock=time.monotonic, now_ms=_now_ms, random=random.random, policies=settings.policies)
    endpoint = Endpoint(node, random=random.random, with_deflate=settings.deflate)
    stopping = _stop_on_signals()
    public = Server(public_app(node, bus, with_console=settings.console), settings.host, settings.port, endpoint)
    internal = Server(internal_app(node, bus, endpoint), settings.internal_host, settings.internal_port)
    work = [asyncio.create_task(bus.run(node), name="bus"), asyncio.create_task(_tick(node, endpoint), name="tick")]
    servers = [public] if settings.internal_port < 0 else [public, internal]
    try:
        for server in servers:
            await server.start(is_shared=server is public and worker is not None)
        log.info(
            "edge started",
            version=version("distributary"),
            url=f"ws://{settings.host}:{public.port}{PATH}",
            port=public.port,
            internal=f"{settings.internal_host}:{internal.port}" if internal in servers else "none",
            bus=", ".join(address.name for address in addresses),
            vcdiff=vcdiff.engine(),
            **({} if worker is None else {"worker": worker}),
        )
        garbage.take_over()
        if on_started is not None:
            on_started(internal.port if internal in servers else None)
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
            await server.stop()
    log.info("edge stopped")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _tick(node: Node, endpoint: Endpoint) -> None:
    """Once a second: pings, time-outs, channels that nobody uses any more."""
    while True:
        await asyncio.sleep(1)
        endpoint.tick()
        node.forget_idle()
        garbage.put_old_aside(is_idle=endpoint.counter.total == 0)


async def _drain(public: Server, endpoint: Endpoint, drain_s: float) -> None:
    """Accept nobody, and spread the closes, so that the other edges are not stormed."""
    endpoint.drain()
    for listener in public.servers:
        listener.close()
    connections = list(endpoint.websockets.open)
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
            while endpoint.websockets.open:  # noqa: ASYNC110  (an event for the last of them would cost each connection a check)
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
