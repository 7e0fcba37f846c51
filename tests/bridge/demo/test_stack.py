"""What the demo starts, on which ports, and how it paces records."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from bridge.adapters.internal_http import Health, InternalServer
from bridge.demo.stack import (
    DEFAULT_RULES,
    Ports,
    StackSettings,
    choose_ports,
    environment_of_children,
    feed,
    find_redis_server,
    has_caught_up,
    is_free,
    plan,
)
from shared.errors import ConfigurationError

PORTS = Ports(redis=7001, bridge_internal=7002, edges=(8000, 8001), edges_internal=(7003, 7004))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_bridge_and_edges_are_started_as_a_user_would() -> None:
    settings = StackSettings(rules=Path("my.yaml"), runner=("python", "-m"), redis_server="/opt/redis-server")
    redis, bridge, first, second = plan(settings, PORTS, "127.0.0.1:9092", Path("/tmp/x"))
    assert redis.command[:5] == ("/opt/redis-server", "--port", "7001", "--bind", "127.0.0.1")
    assert " ".join(bridge.command) == (
        "python -m bridge.cli run --rules my.yaml --bootstrap-servers 127.0.0.1:9092 --group demo "
        "--bus redis://127.0.0.1:7001 --internal-port 7002 --kafka-property fetch.wait.max.ms=10"
    )
    assert " ".join(first.command) == (
        "python -m edge.cli run --bus redis://127.0.0.1:7001 --host 127.0.0.1 --port 8000 --internal-port 7003 --drain-s 0.5 --console"
    )
    assert second.command[second.command.index("--port") + 1] == "8001"
    assert second.command[second.command.index("--internal-port") + 1] == "7004"
    assert second.name == "edge 2"


def test_what_the_user_has_set_for_other_bridges_and_edges_does_not_reach_the_demo() -> None:
    ours = {"PATH": "/bin", "BRIDGE_KAFKA_PROPERTIES": "secret", "EDGE_BUS": "redis://elsewhere"}
    assert environment_of_children(ours) == {"PATH": "/bin"}


def test_without_a_page_the_edges_serve_none() -> None:
    parts = plan(StackSettings(page=False), PORTS, "127.0.0.1:9092", Path("/tmp/x"))
    assert not any("--console" in part.command for part in parts)


def test_readiness_asks_each_part_its_own_port(taken: int) -> None:
    free = choose_ports(0, 1).redis
    ports = Ports(redis=free, bridge_internal=taken, edges=(free,), edges_internal=(free,))
    redis, bridge, edge = plan(StackSettings(edges=1), ports, "x", Path("/tmp/x"))
    assert (redis.is_ready(), bridge.is_ready(), edge.is_ready()) == (False, True, False)


@pytest.mark.parametrize(
    ("status", "lag", "is_so"),
    [("starting", None, False), ("ready", None, False), ("ready", 2, False), ("ready", 0, True), ("degraded", 2, True)],
)
def test_a_bridge_has_caught_up_when_nothing_is_left_or_something_keeps_it(status: str, lag: int | None, is_so: bool) -> None:
    health = Health(status, is_alive=True, details={"lag": lag})
    server = InternalServer("127.0.0.1", 0, health=lambda: health, registry=CollectorRegistry())
    try:
        assert has_caught_up(server.port) is is_so
    finally:
        server.close()
    assert not has_caught_up(server.port)


def test_a_port_in_use_is_skipped(taken: int) -> None:
    ports = choose_ports(taken, 2)
    assert taken not in ports.edges
    assert all(port > taken for port in ports.edges)
    assert not is_free(taken)


def test_ports_are_all_different() -> None:
    ports = choose_ports(0, 5)
    everything = [ports.redis, ports.bridge_internal, *ports.edges, *ports.edges_internal]
    assert len(ports.edges) == len(ports.edges_internal) == 5
    assert len(set(everything)) == 12


def test_too_few_ports_left_is_told(taken: int) -> None:
    del taken
    with pytest.raises(ConfigurationError, match="choose another --port"):
        choose_ports(65_535, 2)


def test_redis_is_found_in_parts_when_it_is_not_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ConfigurationError, match="no redis-server"):
        find_redis_server(tmp_path)
    server = tmp_path / "redis" / "bin" / "redis-server"
    server.parent.mkdir(parents=True)
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    assert find_redis_server(tmp_path) == str(server.resolve())


def test_the_example_is_the_demo_s_own_rules() -> None:
    example = Path(__file__).parents[3] / "examples" / "rules" / "demo.yaml"
    assert example.read_bytes() == DEFAULT_RULES.read_bytes()


def test_every_record_is_sent_once_in_order() -> None:
    sent: list[bytes] = []
    assert feed(iter([b"1", b"2", b"3"]), sent.append, lambda _record: 0.0, lambda _seconds: False) is True
    assert sent == [b"1", b"2", b"3"]


def test_feeding_stops_when_told() -> None:
    sent: list[bytes] = []
    waits = {b"1": 0.0, b"2": 3600.0}
    assert feed(iter([b"1", b"2", b"3"]), sent.append, waits.__getitem__, lambda seconds: seconds > 0 and len(sent) == 1) is False
    assert sent == [b"1"]


def test_feeding_passes_on_what_the_watch_raises() -> None:
    def idle(_seconds: float) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        feed(iter([b"1"]), lambda _record: None, lambda _record: 3600.0, idle)


def test_the_runner_is_this_python() -> None:
    assert StackSettings().runner == (sys.executable, "-m")
