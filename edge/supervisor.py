"""`edge run --workers N`: the parent of the workers. It serves no client; it replaces workers that die, and stops them all.

Every worker has an internal port of its own, any free one on loopback, and tells it when it serves; the parent asks there when it is asked
itself (`edge.aggregate`).
"""

from __future__ import annotations

import asyncio
import os

import msgspec
import uvloop

from edge.aggregate import internal_app
from edge.server import Server, reserve
from edge.settings import Settings, WorkerOrders
from shared.telemetry import Log
from shared.workers.supervisor import Supervisor

log = Log("distributary.edge.supervisor")

STOP_TIMEOUT_S = 10.0
"""What a worker may take to end, beyond its drain."""


def run(settings: Settings, log_format: str, log_level: str) -> None:
    """Serve until SIGTERM or SIGINT. Raises DistributaryError where no worker can be what it was told to be."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, log_format, log_level))


async def _run(settings: Settings, log_format: str, log_level: str) -> None:
    sockets = reserve(settings.host, settings.port)
    port = int(sockets[0].getsockname()[1])
    orders = [_orders(settings, index, port, log_format, log_level) for index in range(settings.workers)]
    supervisor = Supervisor("edge.worker", orders, stop_timeout_s=settings.drain_s + STOP_TIMEOUT_S, log=log)
    supervisor.stop_on_signals()
    internal = Server(internal_app(supervisor.states, supervisor.stopping.is_set), settings.internal_host, settings.internal_port)

    def tell() -> None:
        where = f"{settings.internal_host}:{internal.port}" if internal.started else "none"
        log.info("all workers started", workers=settings.workers, port=port, internal=where)

    try:
        if settings.internal_port >= 0:
            await internal.start()
        await supervisor.run(tell)
    finally:
        for socket in sockets:
            socket.close()
        await internal.stop()
    log.info("edge stopped")


def _orders(settings: Settings, index: int, port: int, log_format: str, log_level: str) -> bytes:
    internal_port = 0 if settings.internal_port >= 0 else -1
    own = msgspec.structs.replace(settings, port=port, internal_host="127.0.0.1", internal_port=internal_port)
    return msgspec.json.encode(WorkerOrders(own, index, os.getpid(), log_format, log_level))
