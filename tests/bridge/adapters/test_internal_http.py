from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from bridge.adapters.internal_http import Health, InternalServer
from bridge.adapters.metrics import PipelineCollector
from bridge.core.draft import OnError
from bridge.core.tally import Tally
from bridge.dead_letters import DeadLetterQueue
from shared.errors import ConfigurationError


class Watched:
    def __init__(self) -> None:
        self.tally = Tally()
        self.bus_away_since: float | None = None
        self.halted: dict[tuple[str, int], str] = {}
        self.waiting_for_schema = 3
        self.lag: int | None = None
        self.letters: DeadLetterQueue | None = None


class Bases:
    hits, misses, bytes_held = 5, 2, 7


class Internal:
    """A server whose health a test sets."""

    def __init__(self) -> None:
        self.health = Health("ready", is_alive=True, details={})
        self.watched = Watched()
        registry = CollectorRegistry()
        registry.register(PipelineCollector(self.watched, bases=Bases(), kafka_is_away=lambda: True))
        self.server = InternalServer("127.0.0.1", 0, health=lambda: self.health, registry=registry)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.server.address}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def internal() -> Iterator[Internal]:
    made = Internal()
    yield made
    made.server.close()


@pytest.mark.parametrize(
    ("status", "is_alive", "live", "ready"),
    [
        ("starting", True, 200, 503),
        ("ready", True, 200, 200),
        ("degraded", True, 200, 200),
        ("stopping", True, 200, 503),
        ("ready", False, 503, 503),
    ],
)
def test_health(internal: Internal, status: str, is_alive: bool, live: int, ready: int):
    internal.health = Health(status, is_alive=is_alive, details={"lag": 3})
    assert internal.get("/health/live")[0] == live
    code, body = internal.get("/health/ready?x=1")
    assert (code, json.loads(body)) == (ready, {"status": status, "lag": 3})


def test_metrics_are_those_of_the_moment(internal: Internal):
    internal.watched.tally.of("r").full = 2
    internal.watched.tally.of("r").stale = 4
    internal.watched.tally.of("r").failed = 3
    internal.watched.tally.tombstones = 6
    internal.watched.tally.of("r").payload_bytes = 100
    internal.watched.tally.of("r").sent_bytes = 30
    internal.watched.tally.dead_letters["r"] = 5
    internal.watched.tally.problems["r", OnError.HALT] = 1
    internal.watched.halted["t", 0] = "why"
    text = internal.get("/metrics")[1]
    for line in (
        'distributary_bridge_pushes_total{outcome="full"} 2.0',
        'distributary_bridge_problems_total{on_error="halt",route="r"} 1.0',
        'distributary_bridge_route_pushes_total{outcome="full",route="r"} 2.0',
        'distributary_bridge_route_pushes_total{outcome="stale",route="r"} 4.0',
        'distributary_bridge_route_pushes_total{outcome="failed",route="r"} 3.0',
        'distributary_bridge_pushes_total{outcome="failed"} 3.0',
        "distributary_bridge_tombstones_total 6.0",
        'distributary_bridge_route_payload_bytes_total{route="r"} 100.0',
        'distributary_bridge_route_sent_bytes_total{route="r"} 30.0',
        "distributary_bridge_sent_bytes_total 30.0",
        'distributary_bridge_dead_letters_total{route="r"} 5.0',
        "distributary_bridge_halted_partitions 1.0",
        "distributary_bridge_schema_waiting_partitions 3.0",
        "distributary_bridge_bus_up 1.0",
        "distributary_bridge_kafka_up 0.0",
        "distributary_bridge_delta_cache_bytes 7.0",
        'distributary_bridge_delta_bases_total{result="hit"} 5.0',
        'distributary_bridge_delta_bases_total{result="miss"} 2.0',
    ):
        assert line in text.splitlines()
    assert "lag_records" not in text


def test_other_paths_are_not_there(internal: Internal):
    assert internal.get("/")[0] == 404


def test_a_port_in_use_is_the_operators_problem(internal: Internal):
    port = int(internal.server.address.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match="--internal-port"):
        InternalServer("127.0.0.1", port, health=lambda: internal.health, registry=CollectorRegistry())
