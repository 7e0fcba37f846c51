from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.settings import BridgeSettings, StartFrom, WorkerOrders, decode_orders, encode_orders
from bridge.supervisor import _orders, join

SETTINGS = BridgeSettings(
    rules=Path("/etc/rules.yaml"),
    bootstrap_servers="k:9092",
    bus="redis://b",
    start_from=StartFrom.LATEST,
    kafka_properties={"group.instance.id": "one", "sasl.password": "p"},
    internal_port=9100,
    workers=3,
)


def test_orders_arrive_as_they_were_given():
    orders = WorkerOrders(SETTINGS, 2, 77, "json", "info")
    assert decode_orders(encode_orders(orders)) == orders


def test_each_worker_is_a_member_of_its_own_and_serves_on_any_port():
    orders = [decode_orders(_orders(SETTINGS, index, "text", "info", is_watched=False)) for index in range(2)]
    assert [order.settings.kafka_properties["group.instance.id"] for order in orders] == ["one-0", "one-1"]
    assert {(order.settings.internal_host, order.settings.internal_port, order.settings.workers) for order in orders} == {
        ("127.0.0.1", 0, 1)
    }


@pytest.mark.parametrize(("is_watched", "port"), [(True, 0), (False, None)])
def test_workers_that_nobody_asks_serve_nothing(port: int | None, *, is_watched: bool):
    settings = BridgeSettings(rules=Path("r"), bootstrap_servers="k", bus="redis://b", internal_port=None, workers=2)
    assert decode_orders(_orders(settings, 0, "text", "info", is_watched=is_watched)).settings.internal_port == port


@pytest.mark.parametrize(
    ("statuses", "joined"),
    [
        (["ready", "ready"], "ready"),
        (["ready", "starting"], "degraded"),
        (["ready", "no answer"], "degraded"),
        (["degraded", "ready"], "degraded"),
        (["starting", "starting"], "starting"),
        (["no answer"], "starting"),
    ],
)
def test_the_health_of_all(statuses: list[str], joined: str):
    workers = [{"status": status, "lag": 5, "halted": {f"t[{number}]": "why"}} for number, status in enumerate(statuses)]
    health = join(workers, is_stuck=False, is_stopping=False)
    assert health.status == joined
    assert health.is_alive
    assert health.details["lag"] == 5 * len(statuses)
    assert len(health.details["halted"]) == len(statuses)


def test_one_that_is_stuck_or_the_end_shows():
    assert not join([{"status": "ready"}], is_stuck=True, is_stopping=False).is_alive
    assert join([{"status": "ready"}], is_stuck=False, is_stopping=True).status == "stopping"


@pytest.mark.parametrize("unknown", [{"lag": None}, {}])
def test_the_lag_of_all_is_not_known_while_that_of_one_is_not(unknown: dict[str, Any]):
    workers: list[dict[str, Any]] = [{"status": "ready", "lag": 0}, {"status": "ready", **unknown}]
    assert join(workers, is_stuck=False, is_stopping=False).details["lag"] is None
