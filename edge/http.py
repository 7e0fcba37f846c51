"""What the edge answers over plain HTTP: channel info and the live page in public; health and metrics on the internal port."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from edge.adapters.redis_bus import RedisBus
from edge.console import CONTENT_SECURITY_POLICY, INDEX, static_files
from edge.core.limits import CommandRate
from edge.node import Node
from edge.transports.entry import PATH, Endpoint
from shared.channel import check_channel
from shared.envelope import epoch_to_text
from shared.errors import BusUnavailableError, ChannelError
from shared.publication import KIND_NAMES

LOOKUP_BURST_S = 2.0


def public_app(node: Node, bus: RedisBus, *, with_console: bool) -> FastAPI:
    """The application on the public port."""
    app = FastAPI(title="Distributary edge", version="1", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json")
    rate = node.limits.max_lookups_per_s
    lookups = CommandRate(rate, rate * LOOKUP_BURST_S, node.clock())

    @app.get("/v1/channels/{channel:path}", summary="Kind and newest position of a channel")
    async def channel_info(channel: str) -> dict[str, Any]:
        try:
            check_channel(channel)
        except ChannelError as error:
            raise HTTPException(400, str(error)) from None
        known = _known(node, channel)
        if known is not None:
            return known
        # Anybody may ask, for any name: the bus must not feel it.
        if not lookups.allows(node.clock()):
            raise HTTPException(429, "too many channels are looked up; try again, or subscribe", {"Retry-After": "1"})
        try:
            return await _look_up(bus, channel)
        except BusUnavailableError as error:
            raise HTTPException(503, f"the bus does not answer: {error}", {"Retry-After": "2"}) from None

    @app.get(PATH, include_in_schema=False)
    async def no_websocket() -> None:
        raise HTTPException(426, f"this is for WebSocket clients: ws://HOST{PATH}?channels=NAME", {"Upgrade": "websocket"})

    if with_console:
        _add_console(app)
    return app


def internal_app(node: Node, bus: RedisBus, endpoint: Endpoint) -> FastAPI:
    """The application on the internal port."""
    app = FastAPI(title="Distributary edge, internal", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(node, bus, endpoint))

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/health/ready")
    async def ready() -> Response:
        # An edge that lost the bus goes on holding its clients: taken out of service, it would only drop them. So: degraded, not down.
        is_ready = bus.was_up and not endpoint.is_draining
        status = "draining" if endpoint.is_draining else "starting" if not bus.was_up else "ok" if bus.is_healthy else "degraded"
        body = {"status": status, "connections": endpoint.counter.total, "channels": len(node.hub), "bus": bus.describe()}
        return JSONResponse(body, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return app


def _known(node: Node, name: str) -> dict[str, Any] | None:
    """What the edge has in use itself."""
    channel = node.hub.get(name)
    if channel is None or channel.stream.epoch is None:
        return None
    stream = channel.stream
    position = {"epoch": stream.epoch, "offset": stream.offset}
    return {"channel": name, "kind": KIND_NAMES[stream.kind] if stream.kind is not None else None, "position": position}


async def _look_up(bus: RedisBus, name: str) -> dict[str, Any]:
    history = await bus.read(name, 1)
    if not history.envelopes:
        raise HTTPException(404, f"nothing was published on {name} (yet)")
    newest = history.envelopes[-1]
    position = {"epoch": epoch_to_text(newest.epoch), "offset": newest.offset}
    return {"channel": name, "kind": KIND_NAMES[newest.kind], "position": position}


def _add_console(app: FastAPI) -> None:
    files = static_files()
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}

    @app.get("/", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    async def page(request: Request) -> Response:
        file = files.get(request.path_params.get("name", INDEX))
        if file is None:
            raise HTTPException(404)
        return Response(file.body, media_type=file.content_type, headers=headers)


class _Metrics(Collector):
    """Reads the node when Prometheus asks; nothing is counted twice."""

    def __init__(self, node: Node, bus: RedisBus, endpoint: Endpoint) -> None:
        self._node = node
        self._bus = bus
        self._endpoint = endpoint

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        node, bus, endpoint = self._node, self._bus, self._endpoint
        return [
            GaugeMetricFamily("distributary_edge_connections", "Open client connections.", endpoint.counter.total),
            CounterMetricFamily("distributary_edge_refused", "Clients sent away because too many came at once.", endpoint.gate.refused),
            GaugeMetricFamily("distributary_edge_channels", "Channels subscribed to on the bus.", len(node.hub)),
            GaugeMetricFamily("distributary_edge_tasks", "Tasks on the event loop, none of them a connection's.", len(asyncio.all_tasks())),
            GaugeMetricFamily("distributary_edge_held_bytes", "Bytes held for recovery.", node.holdings.ring_bytes),
            GaugeMetricFamily("distributary_edge_bus_up", "Whether every server of the bus is connected and heard.", int(bus.is_healthy)),
            CounterMetricFamily("distributary_edge_publications", "Publications that came from the bus.", node.publications),
            CounterMetricFamily("distributary_edge_gaps", "Gaps that subscribers were told of, by channel.", node.gaps),
            CounterMetricFamily("distributary_edge_bus_reads", "Reads of the bus's history.", bus.reads),
            CounterMetricFamily(
                "distributary_edge_slow_consumers", "Connections closed because they did not read.", endpoint.websockets.slow_consumers
            ),
        ]
