"""The script that `helm test` runs, taken from the rendered pod, against edges that are well and edges that are not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

Render = Callable[..., list[dict[str, Any]]]


@contextmanager
def health(status: HTTPStatus) -> Iterator[int]:
    """An internal port whose /health/ready answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else HTTPStatus.NOT_FOUND)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def public() -> Iterator[int]:
    """A public port that speaks WebSocket at /v1/ws."""

    def session(connection: ServerConnection) -> None:
        assert connection.request is not None
        if connection.request.path == "/v1/ws":
            connection.recv()

    with serve(session, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.socket.getsockname()[1]


def check(render: Render, internal: int, outside: int) -> subprocess.CompletedProcess[str]:
    """Run the container's command as the pod would, with other addresses."""
    (container,) = next(one for one in render("trial") if one["kind"] == "Pod")["spec"]["containers"]
    names = {one["name"] for one in container["env"]}
    given = {"INTERNAL_HOST": "127.0.0.1", "INTERNAL_PORT": str(internal), "PUBLIC_HOST": "127.0.0.1", "PUBLIC_PORT": str(outside)}
    assert names == set(given)
    command = [sys.executable, *container["command"][1:], *container["args"]]
    environment = {"PATH": os.environ["PATH"], "DEADLINE_S": "0", **given}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_edges_that_are_well(render: Render) -> None:
    with health(HTTPStatus.OK) as internal, public() as outside:
        done = check(render, internal, outside)
    assert done.returncode == 0, done.stderr
    assert "1 edge(s) ready" in done.stdout


def test_an_edge_that_is_not_ready(render: Render) -> None:
    with health(HTTPStatus.SERVICE_UNAVAILABLE) as internal, public() as outside:
        done = check(render, internal, outside)
    assert done.returncode == 1
    assert "The edges are not ready: HTTP Error 503" in done.stderr


def test_a_service_that_speaks_no_websocket(render: Render) -> None:
    with health(HTTPStatus.OK) as internal, health(HTTPStatus.OK) as outside:
        done = check(render, internal, outside)
    assert done.returncode == 1
    assert "The edges are not ready" in done.stderr


@pytest.mark.parametrize("setting", ["edge.internalPort=9301", "edge.service.port=8443"])
def test_it_asks_the_ports_that_are_set(render: Render, setting: str) -> None:
    (container,) = next(one for one in render("trial", "--set", setting) if one["kind"] == "Pod")["spec"]["containers"]
    assert setting.rpartition("=")[2] in {one["value"] for one in container["env"]}
