"""Health and metrics of all workers at once: what the parent of `edge run --workers N` answers on the internal port.

It asks each worker on the worker's own internal port. Metrics keep their names and get a label `worker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

ASK_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 4_194_304


class WorkerState(msgspec.Struct, frozen=True):
    """What the parent knows of a worker without asking it."""

    index: int
    pid: int | None
    is_serving: bool
    internal_port: int | None
    restarts: int


def internal_app(workers: Callable[[], list[WorkerState]], is_stopping: Callable[[], bool]) -> FastAPI:
    """The application on the internal port."""
    app = FastAPI(title="Distributary edge, internal", version="1", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/health/ready")
    async def ready() -> Response:
        states = workers()
        answers = await asyncio.gather(*(ask(state, "/health/ready") for state in states))
        healths = [_health(state, answer) for state, answer in zip(states, answers, strict=True)]
        # The kernel deals clients only to workers that listen: one that is ready is enough.
        is_ready = not is_stopping() and any(status == 200 for status, _ in answers)
        is_whole = all(health["status"] == "ok" for health in healths)
        status = "draining" if is_stopping() else "starting" if not is_ready else "ok" if is_whole else "degraded"
        connections = sum(health.get("connections", 0) for health in healths)
        return JSONResponse({"status": status, "connections": connections, "workers": healths}, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        states = workers()
        answers = await asyncio.gather(*(ask(state, "/metrics") for state in states))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Merged(states, [text.decode() if status == 200 else "" for status, text in answers]))
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return app


async def ask(worker: WorkerState, path: str) -> tuple[int, bytes]:
    """GET from a worker's internal port: status and body; 0 and nothing where it does not answer."""
    if worker.internal_port is None:
        return 0, b""
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.internal_port, limit=MAX_ANSWER_BYTES)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12] or 0), body


def _health(state: WorkerState, answer: tuple[int, bytes]) -> dict[str, Any]:
    health: dict[str, Any] = {"worker": state.index, "pid": state.pid, "restarts": state.restarts}
    if not answer[0]:
        return health | {"status": "no answer" if state.is_serving else "starting"}
    answered: dict[str, Any] = msgspec.json.decode(answer[1])
    return health | answered


class _Merged(Collector):
    """The workers' metrics and the parent's own."""

    def __init__(self, states: list[WorkerState], texts: list[str]) -> None:
        self._states = states
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("distributary_edge_workers", "Workers that serve.", sum(state.is_serving for state in self._states))
        restarts = CounterMetricFamily("distributary_edge_worker_restarts", "Workers that died and were replaced.", labels=["worker"])
        for state in self._states:
            restarts.add_metric([str(state.index)], state.restarts)
        yield restarts
        families: dict[str, Metric] = {}
        for state, text in zip(self._states, self._texts, strict=True):
            for family in text_string_to_metric_families(text):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, sample.labels | {"worker": str(state.index)}, sample.value)
        yield from families.values()
