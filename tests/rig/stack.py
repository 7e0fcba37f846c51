"""Bridges and an edge, put together as an operator would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.rig.ports import free_port
from tests.rig.process import Process


class Stack:
    """Starts bridges and an edge on one Kafka and one bus. The edge may have an address of its own for the bus, with its own user."""

    def __init__(self, start: Callable[..., Process], bootstrap_servers: str, redis_url: str, *, edge_redis_url: str = "") -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._start = start
        self._bootstrap_servers = bootstrap_servers
        self._redis_url = redis_url
        self._edge_redis_url = edge_redis_url or redis_url

    def start_edge(self) -> Process:
        """An edge, ready for clients."""
        edge = self._start("edge", "run", "--bus", self._edge_redis_url, "--port", self.port, "--internal-port", -1)
        edge.wait_for_port(self.port)
        return edge

    def start_bridge(self, rules: Path, group: str, *options: str) -> Process:
        """A bridge that has begun."""
        return self._start(
            "bridge", "run", "--rules", rules, "--bootstrap-servers", self._bootstrap_servers, "--bus", self._redis_url,
            "--group", group, "--internal-port", "none", *options,
        )  # fmt: skip
