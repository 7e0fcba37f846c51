"""The internal port: /health/live, /health/ready and /metrics, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from shared.errors import ConfigurationError

_REQUEST_TIMEOUT_S = 5.0


class Health(msgspec.Struct, frozen=True):
    """How the process is."""

    status: str
    """`starting`, `ready`, `degraded` (it lives and waits for Kafka, the bus or an operator) or `stopping`."""
    is_alive: bool
    """Whether its loop comes round."""
    details: dict[str, Any]

    @property
    def is_ready(self) -> bool:
        """A degraded bridge is ready too: restarting it would bring nothing back."""
        return self.status in {"ready", "degraded"}


class InternalServer:
    """Serves until `close`. Raises ConfigurationError where the address cannot be had."""

    def __init__(self, host: str, port: int, *, health: Callable[[], Health], registry: CollectorRegistry) -> None:
        handler = type("Handler", (_Handler,), {"health": staticmethod(health), "registry": registry})
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise ConfigurationError([f"--internal-host/--internal-port: {host}:{port}: {error.strerror or error}"]) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="internal-http", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<InternalServer {self.address}>"

    @property
    def address(self) -> str:
        """HOST:PORT, with the port that was really taken."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    @property
    def port(self) -> int:
        """The port that was really taken."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_REQUEST_TIMEOUT_S)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16


class _Handler(BaseHTTPRequestHandler):
    health: Callable[[], Health]
    registry: CollectorRegistry
    timeout = _REQUEST_TIMEOUT_S
    server_version = "distributary"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, generate_latest(self.registry), CONTENT_TYPE_LATEST)
        elif path in {"/health/live", "/health/ready"}:
            health = self.health()
            is_well = health.is_alive and (path == "/health/live" or health.is_ready)
            body = msgspec.json.encode({"status": health.status, **health.details}) + b"\n"
            self._answer(HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE, body, "application/json")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there are /health/live, /health/ready and /metrics\n", "text/plain")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (its name is the base class')
        """Requests are not logged: probes come every few seconds."""

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
