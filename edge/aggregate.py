"""Health and metrics of all workers at once: what the parent of `edge run --workers N` answers on the internal port."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from prometheus_client.registry import CollectorRegistry

from shared.workers.orders import WorkerState
from shared.workers.report import MergedMetrics, ask_all, health_of


def internal_app(workers: Callable[[], list[WorkerState]], is_stopping: Callable[[], bool]) -> FastAPI:
    """The application on the internal port."""
    app = FastAPI(title="Distributary edge, internal", version="1", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/health/ready")
    async def ready() -> Response:
        states = workers()
        answers = await ask_all(states, "/health/ready")
        healths = [health_of(state, answer) for state, answer in zip(states, answers, strict=True)]
        # The kernel deals clients only to workers that listen: one that is ready is enough.
        is_ready = not is_stopping() and any(status == 200 for status, _ in answers)
        is_whole = all(health["status"] == "ok" for health in healths)
        status = "draining" if is_stopping() else "starting" if not is_ready else "ok" if is_whole else "degraded"
        connections = sum(health.get("connections", 0) for health in healths)
        return JSONResponse({"status": status, "connections": connections, "workers": healths}, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        states = workers()
        answers = await ask_all(states, "/metrics")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(MergedMetrics("distributary_edge", states, answers))
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return app
