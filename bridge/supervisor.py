"""`bridge run --workers N`: the parent of the workers, each of which is a member of the group with a part of the partitions.

It consumes and publishes nothing; it replaces workers that die (meanwhile the others take over the partitions), stops them all, and answers
on the internal port for all of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from bridge.adapters.internal_http import Health, InternalServer
from bridge.app import Stop, Watch
from bridge.settings import BridgeSettings, WorkerOrders, encode_orders
from shared.telemetry import Log
from shared.workers.report import MergedMetrics, ask_all, health_of
from shared.workers.supervisor import Supervisor

T = TypeVar("T")

log = Log("bridge.supervisor")

STOP_TIMEOUT_S = 40.0
"""What a worker may take to end: its batch in flight, its dead letters, its commit, and leaving the group."""
_ANSWER_TIMEOUT_S = 10.0
_STATIC_MEMBER = "group.instance.id"


def run(
    settings: BridgeSettings,
    log_format: str,
    log_level: str,
    *,
    watch: Watch | None = None,
    on_line: Callable[[bytes], None] | None = None,
) -> None:
    """Run workers until SIGTERM or SIGINT. Raises WorkersError where no worker can be what it was told to be."""
    asyncio.run(_run(settings, log_format, log_level, watch, on_line))


async def _run(
    settings: BridgeSettings, log_format: str, log_level: str, watch: Watch | None, on_line: Callable[[bytes], None] | None
) -> None:
    orders = [_orders(settings, index, log_format, log_level, is_watched=watch is not None) for index in range(settings.workers)]
    supervisor = Supervisor("bridge.worker", orders, stop_timeout_s=STOP_TIMEOUT_S, log=log, on_line=on_line)
    supervisor.stop_on_signals()
    _pass_hang_ups(supervisor)
    together = _Together(supervisor)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(together)
    server = None
    if settings.internal_port is not None:
        server = InternalServer(settings.internal_host, settings.internal_port, health=together.health, registry=registry)
        log.info("health and metrics", address=server.address)
    watching: AbstractContextManager[object] = nullcontext() if watch is None else watch(registry, together.health)
    try:
        await asyncio.to_thread(watching.__enter__)
        await supervisor.run(lambda: log.info("all workers started", workers=settings.workers))
    finally:
        await asyncio.to_thread(watching.__exit__, None, None, None)
        if server is not None:
            await asyncio.to_thread(server.close)
    log.info("stopped")


def _pass_hang_ups(supervisor: Supervisor) -> None:
    """SIGHUP reloads the rules in every worker; where the terminal is gone, it ends them all."""
    stop = Stop()
    stop.on_hang_up = lambda: supervisor.signal(signal.SIGHUP)
    stop.know_terminal()

    def on_hang_up() -> None:
        stop.hang_up()
        if stop():
            supervisor.stopping.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hang_up)


def _orders(settings: BridgeSettings, index: int, log_format: str, log_level: str, *, is_watched: bool) -> bytes:
    properties = dict(settings.kafka_properties)
    if _STATIC_MEMBER in properties:
        properties[_STATIC_MEMBER] += f"-{index}"
    is_asked = is_watched or settings.internal_port is not None
    own = msgspec.structs.replace(
        settings, kafka_properties=properties, internal_host="127.0.0.1", internal_port=0 if is_asked else None, workers=1
    )
    return encode_orders(WorkerOrders(own, index, os.getpid(), log_format, log_level))


class _Together(Collector):
    """All workers, as one: asked by other threads than the loop's."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        """The metrics of all."""
        states = self._supervisor.states()
        yield from MergedMetrics("distributary_bridge", states, self._call(ask_all(states, "/metrics"))).collect()

    def health(self) -> Health:
        """How they are, together: alive while none is stuck, ready while one is."""
        states = self._supervisor.states()
        answers = self._call(ask_all(states, "/health/live"))
        workers = [health_of(state, answer) for state, answer in zip(states, answers, strict=True)]
        return join(workers, is_stuck=any(status == 503 for status, _ in answers), is_stopping=self._supervisor.stopping.is_set())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_ANSWER_TIMEOUT_S)


def join(workers: list[dict[str, Any]], *, is_stuck: bool, is_stopping: bool) -> Health:
    """The health of workers as one."""
    statuses = [str(worker["status"]) for worker in workers]
    if is_stopping:
        status = "stopping"
    elif not any(each in {"ready", "degraded"} for each in statuses):
        status = "starting"
    else:
        status = "ready" if all(each == "ready" for each in statuses) else "degraded"
    lags = [worker.get("lag") for worker in workers]
    halted = {name: problem for worker in workers for name, problem in worker.get("halted", {}).items()}
    # While one of them is not known, neither is the sum: less than it could pass for none.
    lag = None if None in lags else sum(filter(None, lags))
    details = {"halted": halted, "lag": lag, "workers": workers}
    return Health(status, not is_stuck, details)
